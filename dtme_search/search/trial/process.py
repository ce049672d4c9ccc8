"""Which process has a trial in hand, and whether it is gone, as far as that can be told from here."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

PROCESS_ATTR = "dtme:process"
"""Trial attribute: the process that has it in hand, or had it last."""


@dataclass(frozen=True)
class Process:
    """A process of some machine.

    Attributes:
        host: Name of the machine, for people.
        pid: Its number there.
        machine: Tells machines, restarts of one and containers apart; empty where the system has no names
            for them, so that nothing is concluded from the number.
        begun: When it began, in ticks of the machine: numbers of processes are given again.
    """

    host: str
    pid: int
    machine: str
    begun: int

    @classmethod
    def here(cls) -> Self:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), _machine(), _begun(os.getpid()) or 0)

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> Self | None:
        """As :meth:`plain` wrote it; ``None`` if nothing was written."""
        return None if values is None else cls(**values)

    def plain(self) -> dict[str, Any]:
        """Values that JSON knows."""
        return asdict(self)

    @property
    def is_gone(self) -> bool:
        """Whether it has certainly ended. Of another machine's process nobody here can tell."""
        return bool(self.machine) and self.machine == _machine() and _begun(self.pid) != self.begun


@cache
def _machine() -> str:
    """One boot of one system, and in it one space of process numbers; empty where there is no ``/proc``."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _begun(pid: int) -> int | None:
    """Ticks after the start of the machine; ``None`` if there is no such process, or only its remains."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name of the program, in brackets, may hold anything.
    state, *fields = text.rpartition(")")[2].split()
    return None if state in ("Z", "X") else int(fields[18])
