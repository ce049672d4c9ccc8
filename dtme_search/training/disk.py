"""Files of a run without a look inside: when a disk is full, which have served."""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path

from dtme_search.errors import DiskFullError

DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""What the system says when a file cannot grow any more, or a disk is broken and takes nothing."""
_OF_BROKEN_DISKS = (errno.EIO, errno.EROFS)
WEIGHTS = "weights.pt"
"""File in the folder of a trial that holds its trained network, where the study keeps it."""


def disk_full(error: OSError, place: Path) -> DiskFullError:
    """What to say of a file below or at ``place`` that the disk did not take."""
    cure = "Look after the disk" if error.errno in _OF_BROKEN_DISKS else "Free some space"
    return DiskFullError(
        f"{error.filename or place}: {error.strerror}. {cure}, then run the same command again to "
        "resume from the last checkpoint."
    )


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint that has served, and what processes that died while they wrote it left."""
    path.unlink(missing_ok=True)
    remove_partial(path)


def remove_partial(path: Path) -> None:
    """Remove what processes that died while they wrote a file left."""
    for file in path.parent.glob(f"{path.name}.*.partial"):
        file.unlink(missing_ok=True)


def check_sums(path: Path) -> None:
    """Compare all that torch wrote to a file with the checksums beside it, which torch does not do itself.

    Raises:
        ValueError: If a disk gave back something else than was written, or the file is not torch's.
    """
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"the file is cut or damaged: {error}") from error
    if damaged is not None:
        raise ValueError(f"{damaged} does not have its checksum: the file is damaged")
