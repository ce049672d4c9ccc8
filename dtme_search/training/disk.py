"""Files of a run, regardless of their content: full disks, and files that are no longer needed."""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path

from dtme_search.errors import DiskFullError

DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""Error numbers for a file that cannot grow any more, or for a broken disk that accepts no writes."""
_OF_BROKEN_DISKS = (errno.EIO, errno.EROFS)
WEIGHTS = "weights.pt"
"""File in the folder of a trial that holds its trained network, where the study keeps it."""


def disk_full(error: OSError, place: Path) -> DiskFullError:
    """Error message for a file below or at ``place`` that the disk refused."""
    cure = "Look after the disk" if error.errno in _OF_BROKEN_DISKS else "Free some space"
    return DiskFullError(
        f"{error.filename or place}: {error.strerror}. {cure}, then run the same command again to "
        "resume from the last checkpoint."
    )


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint that is no longer needed, and files of processes that died while writing."""
    path.unlink(missing_ok=True)
    remove_partial(path)


def remove_partial(path: Path) -> None:
    """Remove what processes left that died while writing a file."""
    for file in path.parent.glob(f"{path.name}.*.partial"):
        file.unlink(missing_ok=True)


def check_sums(path: Path) -> None:
    """Compare everything torch wrote to a file with the checksums next to it, which torch itself does not do.

    Raises:
        ValueError: If the disk returned something else than was written, or the file is not torch's.
    """
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"the file is cut or damaged: {error}") from error
    if damaged is not None:
        raise ValueError(f"{damaged} does not match its checksum: the file is damaged")
