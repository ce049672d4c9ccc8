"""The short form of ``benchmarks/soak.py``: nothing grows, nothing is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.slow
@pytest.mark.skipif(
    "DTME_TEST_SOAK" not in os.environ, reason="judges figures: DTME_TEST_SOAK=1 on a quiet machine"
)
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="figures of processes come from /proc")
def test_two_minutes_of_kills_stops_and_restarts(tmp_path):
    command = [
        sys.executable,
        str(SCRIPT),
        "--minutes",
        "2",
        "--quick",
        "--json",
        str(tmp_path / "soak.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    figures = json.loads((tmp_path / "soak.json").read_text())
    assert figures["wrong"] == [] and figures["kills"] >= 10 and figures["trials"]["COMPLETE"] >= 5
