"""Starts a worker of a study as a new process, here or where a Dask worker runs.

A new process, because a process sees the GPUs that its environment names when it imports torch, and because
the death of one worker must not kill the others. A worker is ``dtme-search worker``: it loads the study and
shares only its database and folder with the others.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dtme_search.search.workspace import private_folder

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that set the number of threads of a process."""


@dataclass(frozen=True)
class WorkerOrder:
    """What a worker must know, wherever it runs.

    Attributes:
        study: Name of the study.
        index: Number of the worker.
        workdir: Folder of studies; absolute.
        url: Database; may contain a password, so it is never printed.
        data_root: Folder of the data there; ``None`` for what the study says.
        callbacks: Import paths of its callbacks, and names of its trackers.
        devices_per_trial: Devices that divide each batch of a trial.
    """

    study: str
    index: int
    workdir: str
    url: str = field(repr=False)
    data_root: str | None = None
    callbacks: tuple[str, ...] = ()
    devices_per_trial: int = 1

    @property
    def log(self) -> Path:
        """What the worker writes to stderr."""
        return Path(self.workdir) / self.study / "workers" / f"{self.index}.log"


def start_worker(order: WorkerOrder, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start the process; it reports what it does in lines on its stdout.

    Args:
        order: What it must know.
        environment: Its whole environment; an empty ``CUDA_VISIBLE_DEVICES`` puts it on the CPU.
    """
    private_folder(order.log.parent)
    command = [sys.executable, "-P", "-m", "dtme_search", "worker", "--study", order.study]
    command += ["--workdir", order.workdir, "--launcher", str(os.getpid())]
    if order.devices_per_trial > 1:
        command += ["--devices-per-trial", str(order.devices_per_trial)]
    if order.data_root is not None:
        command += ["--data-root", order.data_root]
    for name in order.callbacks:
        command += ["--callback" if ":" in name else "--tracker", name]
    if environment.get("CUDA_VISIBLE_DEVICES") == "":
        command += ["--device", "cpu"]
    with order.log.open("ab") as errors:
        return subprocess.Popen(
            command,
            # Not an argument: everybody on the machine can see those, and a URL may contain a password.
            env={**environment, "DTME_STORAGE": order.url},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # Ctrl-C then reaches only the supervising process, which tells the workers once.
            start_new_session=True,
        )


def last_words(log: Path) -> str:
    """The one line with which a worker gave up."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("dtme-search: ") if lines else f"a worker gave up; {log} is empty."


def in_words(code: int) -> str:
    """How a process ended."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"with exit code {code}"
