"""Runs one piece of code in several processes that begin it at the same moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_together(code: str, count: int, *arguments: str) -> list[str]:
    """Standard output of each; lines up to ``# START`` run first, ``sys.argv[1]`` is the process number."""
    before, _, after = code.partition("# START")
    script = f"import sys\n{before}\nprint('ready', flush=True)\nsys.stdin.readline()\n{after}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(number), *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return [output.strip() for output, _ in outputs]
