"""The leader's side: starts a process for each further device of a run, and asks them for their share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from dtme_search.config import RunConfig
from dtme_search.data import TaskData
from dtme_search.errors import ConfigError, TrainingError
from dtme_search.models import MultiTaskViT
from dtme_search.training.runtime import pick_device
from dtme_search.training.team import exchange
from dtme_search.training.team.job import Job, check_divides
from dtme_search.training.team.messages import GO, HERE, READY, Begin, Failed, Shape, Task

_GRACE = 5.0
"""Seconds that a follower gets to end by itself."""


@dataclass
class _Follower:
    device: torch.device
    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    errors: IO[bytes]


class Team:
    """The devices of a run. A team of one is the run alone, and starts nothing.

    Followers start with the first step that needs them, serve one run after the other, and end with
    :meth:`close`, with this process, or when an exchange with them was broken off; then the next run starts
    new ones.

    Args:
        devices: The leader's first.
    """

    rank = 0

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self.devices = tuple(devices)
        self._step = 0
        self._followers: list[_Follower] = []
        self._run: tuple[RunConfig, MultiTaskViT, TaskData] | None = None
        self._meeting = ""
        self._met = False  # for this run
        self._told: Shape | None = None
        self._statistics: exchange.RunningStatistics | None = None
        self._busy = False

    @property
    def device(self) -> torch.device:
        """That of the leader."""
        return self.devices[0]

    @property
    def size(self) -> int:
        """Number of devices."""
        return len(self.devices)

    @property
    def processes(self) -> tuple[int, ...]:
        """Numbers of the processes of the followers that run."""
        return tuple(each.process.pid for each in self._followers)

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self, config: RunConfig) -> None:
        """Refuse a run whose batches cannot be divided.

        Raises:
            ConfigError: If ``train.accumulate`` or the batch size is not a multiple of the number of devices.
        """
        check_divides(config.train.batch_size, config.train.accumulate, self.size)

    @contextmanager
    def helping(self, config: RunConfig, model: MultiTaskViT, data: TaskData) -> Iterator[None]:
        """Inside, the team computes for this run."""
        self._run = (config, model, data)
        self._met, self._told = False, None
        try:
            with tempfile.TemporaryDirectory(prefix="dtme-team-") as folder:
                self._meeting = str(Path(folder) / "meeting")
                yield
        finally:
            self._run = self._statistics = None
            if self._busy:  # nobody knows what the others wait for
                self.close()
            if self._met:
                exchange.part()

    def begin(self, step: int) -> None:
        """What is asked for from here on is about the batch of this step."""
        self._step = step

    def ask(self, job: Job) -> None:
        """Let the followers do the same as the leader is about to do.

        Raises:
            TrainingError: If one of them has ended or cannot go on.
            OutOfMemoryError: If one is out of memory; that of torch.
        """
        assert self._run is not None
        self._busy = True
        if not self._met:
            self._meet()
        model = self._run[1]
        shape = _shape_of(model)
        self._tell(Task(self._step, job, None if shape == self._told else shape), HERE)
        self._told = shape
        self._together(lambda: exchange.send_weights(model, self.rank))
        self._statistics = exchange.RunningStatistics(model)

    def total(self, found: Sequence[Tensor]) -> list[Tensor]:
        """The sums of what the leader and the followers have found; errors as of :meth:`ask`."""
        statistics = self._statistics
        assert statistics is not None
        self._hear(READY)
        self._tell(GO)
        totals: list[Tensor] = self._together(lambda: exchange.add_up(found))
        self._together(lambda: statistics.put_together(self.rank, self.size))
        self._busy = False
        return totals

    def skip(self, num_images: int) -> None:
        """The first parts are the leader's: it skips none."""
        raise AssertionError(f"the leader skips no part, got {num_images} images")

    def close(self) -> None:
        """End the followers; safe to call at any time and more than once."""
        followers, self._followers = self._followers, []
        for each in followers:
            each.connection.close()
        for each in followers:
            with suppress(subprocess.TimeoutExpired):
                each.process.wait(0 if self._busy else _GRACE)
            each.process.kill()
            each.process.wait()
            each.errors.close()
        self._busy = False

    def _meet(self) -> None:
        """Begin the run with the followers, which start if there are none."""
        assert self._run is not None
        config, model, data = self._run
        if any(each.process.poll() is not None for each in self._followers):
            self.close()  # one has died since the last run
            self._busy = True
        if not self._followers:
            for rank, device in enumerate(self.devices[1:], start=1):
                self._followers.append(_start(rank, self.size, device))
            self._hear(HERE)
        final, threads = data.scoring_split == "test", torch.get_num_threads()
        # They answer before they wait for the others, which would take long where one has died.
        self._tell(Begin(config, model.tasks, final, data.fingerprint, threads, self._meeting), HERE)
        self._together(lambda: exchange.meet(self._meeting, self.rank, self.size, self.device))
        self._met = True

    def _tell(self, message: object, answer: str | None = None) -> None:
        for each in self._followers:
            try:
                each.connection.send(message)
            except OSError:
                raise self._lost(each) from None
        if answer is not None:
            self._hear(answer)

    def _hear(self, expected: str) -> None:
        for each in self._followers:
            try:
                said = each.connection.recv()
            except (EOFError, OSError):
                raise self._lost(each) from None
            if isinstance(said, Failed):
                reason = f"{self._name(each)}: {said.reason}"
                raise torch.OutOfMemoryError(reason) if said.of_memory else TrainingError(reason)
            assert said == expected, f"expected {expected}, got {said}"

    def _together(self, exchanging: Callable[[], Any]) -> Any:
        """Exchange tensors; if that fails because a follower has died, say so."""
        try:
            return exchanging()
        except RuntimeError:
            for each in self._followers:
                with suppress(subprocess.TimeoutExpired):
                    each.process.wait(_GRACE / self.size)
                    raise self._lost(each) from None
            raise

    def _lost(self, follower: _Follower) -> TrainingError:
        """How a follower ended, in one line."""
        code = None
        with suppress(subprocess.TimeoutExpired):
            code = follower.process.wait(_GRACE)
        how = "it stopped answering" if code is None else f"its process ended with exit code {code}"
        if code is not None and code < 0:
            how = f"its process was killed by {signal.Signals(-code).name}"
        follower.errors.seek(0)
        lines = follower.errors.read().decode(errors="replace").strip().splitlines()
        why = f" ({lines[-1].strip()})" if lines and not (code or 0) < 0 else ""
        return TrainingError(f"{self._name(follower)}: {how}{why} before step {self._step} was done.")

    def _name(self, follower: _Follower) -> str:
        number = self._followers.index(follower) + 2
        return f"device {number} of {self.size} ({follower.device})"


def pick_team(device: str | None, count: int = 1, further: Sequence[str] = ()) -> Team:
    """A team of ``count`` devices of one kind: the named one, and those that follow it.

    On the CPU it is processes of this machine, to test with.

    Args:
        device: As for ``pick_device``.
        count: Number of devices.
        further: Names of the others, if they do not simply follow.

    Raises:
        ConfigError: If a device does not exist.
    """
    first = pick_device(device)
    if first.type == "cpu":
        return Team([first] * count)
    start, there = first.index or 0, torch.cuda.device_count()
    if not further and start + count > there:
        where = f" from {first} on" if start else ""
        raise ConfigError(
            f"--devices-per-trial must be at most the number of CUDA devices{where}, {there - start}, "
            f"got {count}. Lower it."
        )
    others = further or [f"cuda:{start + number}" for number in range(1, count)]
    if count > 1:
        first = torch.device("cuda", start)
    return Team([first, *map(torch.device, others)])


def _start(rank: int, size: int, device: torch.device) -> _Follower:
    """Start the process of a follower. It ends when its end of the pipe is the last one, see ``follower``."""
    ours, theirs = Pipe()
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - read when the process has died
    with theirs:
        command = [sys.executable, "-P", "-m", "dtme_search.training.team.follower"]
        process = subprocess.Popen(
            [
                *command,
                str(theirs.fileno()),
                str(rank),
                str(size),
                str(device),
                str(os.getpid()),
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # that of a worker carries messages
            stderr=errors,
            start_new_session=True,  # Ctrl-C is for the leader, which may want one more step
        )
    return _Follower(device, process, ours, errors)


def _shape_of(model: MultiTaskViT) -> Shape:
    frozen = frozenset(name for name, each in model.named_parameters() if not each.requires_grad)
    return Shape(None if model.plan is None else model.plan.to_json(), frozen)
