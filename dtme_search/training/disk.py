"""Files of a run without a look inside: when a disk is full, which have served."""

from __future__ import annotations

import errno
from pathlib import Path

from dtme_search.errors import DiskFullError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when a file cannot grow any more."""


def disk_full(error: OSError, place: Path) -> DiskFullError:
    """What to say of a file below or at ``place`` that could not be written for want of space."""
    return DiskFullError(
        f"{error.filename or place}: {error.strerror}. Free some space, then run the same command again: it "
        "goes on from the last checkpoint."
    )


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint that has served, and what processes that died while they wrote it left."""
    for file in (path, *path.parent.glob(f"{path.name}.*.partial")):
        file.unlink(missing_ok=True)
