"""What a Dask worker does: it hosts one worker of a study, forwards its messages, and passes signals on.

These functions and those of ``process`` are sent to the cluster by value and use nothing but Python and Dask.
So no Dask worker imports torch; only the new process does, in its own environment.
"""

from __future__ import annotations

import os
import platform
import queue
import signal
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtme_search.search.workers.process import THREADS, WorkerOrder, last_words, start_worker

LISTEN_EVERY = 1.0
"""Seconds between two reads of the instructions from the supervising process."""
GRACE = 120.0
"""Seconds that an unsupervised worker gets to end by itself."""
_USER_MISTAKE = 2
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class HostTask:
    """One worker to host.

    Attributes:
        order: What the worker must know.
        key: Name of the task in Dask.
        channel: Topic of its events, and name of the variable with its instructions.
        num_gpus: GPUs that the Dask worker declares, of which the worker gets one; 0 for whatever it sees.
        num_threads: Threads to compute with.
        version: Version of this project that the cluster must have.
        machine: The only machine that can reach the database; ``None`` if all can.
        silence: Seconds without a sign of life from the supervising process after which it counts as gone.
    """

    order: WorkerOrder
    key: str
    channel: str
    num_gpus: int
    num_threads: int
    version: str
    machine: str | None
    silence: float


def host(task: HostTask) -> tuple[int, str]:
    """Run a worker to its end; returns its exit code (negative for a signal) and its last words."""
    from dask.distributed import get_worker, secede

    dask_worker = get_worker()
    # Trials take hours: this frees the thread, while the GPU that the task asked for stays reserved.
    secede()
    trouble = trouble_here(task)
    if trouble is not None:
        return _USER_MISTAKE, trouble
    if task.num_gpus == 0:
        return _run(task, dask_worker, {})
    # One pool for all tasks that this process hosts; setdefault decides whose pool it is.
    free: queue.SimpleQueue[str] = vars(dask_worker).setdefault(
        "_dtme_search_gpus", _pool(visible_gpus(task))
    )
    gpu = free.get_nowait()
    try:
        return _run(task, dask_worker, {"CUDA_VISIBLE_DEVICES": gpu})
    finally:
        free.put(gpu)


def look_around() -> dict[str, Any]:
    """What the supervising process must know about a Dask worker before it relies on it."""
    try:
        from dtme_search.version import __version__ as version
    except ImportError:
        version = ""
    return {
        "machine": machine(),
        "version": version,
        "node": platform.node(),
        # Without that variable every process on the machine takes the first GPU.
        "unpinned": "CUDA_VISIBLE_DEVICES" not in os.environ and Path("/dev/nvidia0").exists(),
    }


def machine() -> str:
    """A name that no other machine has."""
    try:
        return f"{platform.node()} {_BOOT.read_text().strip()}"
    except OSError:
        return f"{platform.node()} {uuid.getnode()}"


def trouble_here(task: HostTask) -> str | None:
    """Why the task cannot run here, if it cannot."""
    found, node = look_around(), platform.node()
    if found["version"] != task.version:
        return (
            f"Dask worker on {node}: dtme-search must be version {task.version}, got "
            f"{found['version'] or 'none'}. Install the same one on all machines of the cluster."
        )
    if task.machine not in (None, found["machine"]):
        return (
            f"Dask worker on {node}: a SQLite database serves one machine. Give --storage a PostgreSQL URL."
        )
    if len(visible_gpus(task)) < task.num_gpus:
        return (
            f"Dask worker on {node}: it must see the {task.num_gpus} GPUs that its resources declare, got "
            f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']}. Correct one of the two."
        )
    return None


def visible_gpus(task: HostTask) -> list[str]:
    """The declared GPUs as named in ``CUDA_VISIBLE_DEVICES``; the first ones if that is not set."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(number) for number in range(task.num_gpus)]
    return [name.strip() for name in named.split(",") if name.strip()][: task.num_gpus]


def _pool(gpus: list[str]) -> queue.SimpleQueue[str]:
    free: queue.SimpleQueue[str] = queue.SimpleQueue()
    for gpu in gpus:
        free.put(gpu)
    return free


def _run(task: HostTask, dask_worker: Any, device: dict[str, str]) -> tuple[int, str]:
    threads = dict.fromkeys(THREADS, str(task.num_threads))
    try:
        process = start_worker(task.order, {**os.environ, **threads, **device})
    except OSError as error:
        return _USER_MISTAKE, f"Dask worker on {platform.node()}: {error}. Correct --workdir."
    try:
        seen = {**os.environ, **device}.get("CUDA_VISIBLE_DEVICES", "")
        facts = {"pid": process.pid, "node": platform.node(), "gpu": seen}
        dask_worker.log_event(task.channel, {"key": task.key, "began": facts})
        reader = threading.Thread(target=_repeat, args=(process, task, dask_worker), daemon=True)
        reader.start()
        _obey(process, task)
        reader.join(timeout=5)
    finally:
        if process.poll() is None:
            process.terminate()
    return process.returncode, last_words(task.order.log)


def _repeat(process: subprocess.Popen[str], task: HostTask, dask_worker: Any) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            dask_worker.log_event(task.channel, {"key": task.key, "line": line})


def _obey(process: subprocess.Popen[str], task: HostTask) -> None:
    """Send the process the requested signals until it has ended."""
    from dask.distributed import Variable

    channel, sent = Variable(task.channel), 0
    beat, heard = None, time.monotonic()
    while True:
        try:
            process.wait(LISTEN_EVERY)
            return
        except subprocess.TimeoutExpired:
            pass
        try:
            said = channel.get(timeout=5)
        except Exception:
            # Any failure (no scheduler, no supervising process) counts as silence.
            said = {"beat": beat, "signals": {task.key: []}}
        if said["beat"] != beat:
            beat, heard = said["beat"], time.monotonic()
        # A worker that is no longer named has been replaced.
        wished = said["signals"].get(task.key, [signal.SIGTERM])
        silence = time.monotonic() - heard
        if silence > task.silence:
            wished = [signal.SIGTERM]
        if silence > task.silence + GRACE:
            wished = [signal.SIGTERM, signal.SIGKILL]
        for number in wished[sent:]:
            process.send_signal(number)
        sent = max(sent, len(wished))
