"""Passwords on the command line, which every user of a machine can read while the command runs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence

STORAGE, WARM_START_STORAGE = "DTME_STORAGE", "DTME_WARM_START_STORAGE"
MOVED = "DTME_MOVED"
"""Environment variables that stand for arguments of this command."""
_VARIABLES = {"--storage": STORAGE, "--warm-start-storage": WARM_START_STORAGE}
_SECRET = re.compile(r"://[^@]*:[^@]*@|[?&][^=&]*(pass|pwd|secret|token)[^=&]*=", re.IGNORECASE)


def hide_passwords() -> None:
    """Restart this program with database URLs that contain a password moved into its environment.

    Only the user can read that. Does nothing if there is no such URL, or no program file to restart.
    """
    words = sys.argv[1:]
    length = len(words)
    if os.name != "posix" or not words or sys.orig_argv[-length:] != words:
        return
    kept, moved = without_passwords(words)
    if moved:
        command = [sys.executable, *sys.orig_argv[1:-length], *kept]
        os.execve(sys.executable, command, {**os.environ, **moved, MOVED: " ".join(moved)})


def without_passwords(words: Sequence[str]) -> tuple[list[str], Mapping[str, str]]:
    """Arguments without URLs that contain a password, and those URLs by environment variable.

    Example:
        >>> without_passwords(["show", "--storage", "postgresql://ann:pw@host/db", "-q"])
        (['show', '-q'], {'DTME_STORAGE': 'postgresql://ann:pw@host/db'})
    """
    kept, moved, rest = list[str](), dict[str, str](), list(words)
    while rest:
        taken = [rest.pop(0)]
        name, equals, value = taken[0].partition("=")
        if name in _VARIABLES and not equals and rest:
            value = rest.pop(0)
            taken.append(value)
        if name in _VARIABLES and _SECRET.search(value):
            moved[_VARIABLES[name]] = value
        else:
            kept += taken
    return kept, moved
