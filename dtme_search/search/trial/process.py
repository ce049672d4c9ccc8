"""Which process is running a trial, and whether it is gone, as far as this machine can tell."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

PROCESS_ATTR = "dtme:process"
"""Trial attribute: the process that is running it, or ran it last."""


@dataclass(frozen=True)
class Process:
    """A process on some machine.

    Attributes:
        host: Name of the machine, for people.
        pid: Its process id there.
        machine: Distinguishes machines, reboots and containers; empty if the system has no name for them, so
            that nothing is concluded from the process id.
        begun: When it started, in ticks of the machine, because process ids are reused.
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
        """Read what :meth:`plain` wrote; ``None`` if nothing was written."""
        return None if values is None else cls(**values)

    def plain(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return asdict(self)

    @property
    def is_gone(self) -> bool:
        """Whether it has certainly ended. About a process on another machine this machine knows nothing."""
        return bool(self.machine) and self.machine == _machine() and _begun(self.pid) != self.begun


@cache
def _machine() -> str:
    """One boot of one system, and one name space of process ids in it; empty if there is no ``/proc``."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _begun(pid: int) -> int | None:
    """Ticks since the start of the machine; ``None`` if there is no such process, or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name of the program, in parentheses, may contain anything.
    state, *fields = text.rpartition(")")[2].split()
    return None if state in ("Z", "X") else int(fields[18])
