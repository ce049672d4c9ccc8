"""Checkpoints: written atomically, loaded with ``weights_only=True``, tied to the work they belong to."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dtme_search.errors import TrainingError
from dtme_search.training.disk import DISK_TROUBLE, check_sums, disk_full

FORMAT = 1
_log = logging.getLogger(__name__)


def save_checkpoint(path: Path, fingerprint: str, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values so that a reader sees the old file or the new one, never a partial one.

    Raises:
        DiskFullError: If the disk refuses it; the old file stays.
        OSError: If the folder cannot be written.
    """
    partial = _partial(path)
    try:
        _write(partial, fingerprint, content)
        partial.replace(path)
    except OSError as error:
        if error.errno in DISK_TROUBLE:
            raise disk_full(error, path) from None
        raise
    finally:
        partial.unlink(missing_ok=True)


def save_snapshot(folder: Path, fingerprint: str, content: Mapping[str, Any]) -> Path:
    """Write a state from which other runs will start; its file name contains its SHA-256.

    Raises:
        OSError: If the disk is full or the folder cannot be written; nothing is left behind.
    """
    partial = _partial(folder / "snapshot.pt")
    try:
        _write(partial, fingerprint, content)
        return partial.rename(folder / f"snapshot-{_digest(partial)}.pt")
    finally:
        partial.unlink(missing_ok=True)


def load_snapshot(path: Path, fingerprint: str, device: torch.device) -> dict[str, Any] | None:
    """Read what :func:`save_snapshot` wrote; a file whose content does not match its name is removed."""
    try:
        intact = _digest(path) == path.stem.removeprefix("snapshot-")
    except FileNotFoundError:
        return None
    if not intact:
        _log.warning("%s does not match the checksum in its name; it is removed and trained again.", path)
        path.unlink(missing_ok=True)
        return None
    return load_checkpoint(path, fingerprint, device)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.partial")


def _write(partial: Path, fingerprint: str, content: Mapping[str, Any]) -> None:
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb") as file:
        try:
            torch.save({"format": FORMAT, "fingerprint": fingerprint, **content}, file)
        except RuntimeError as error:
            # torch reports a failed write as an error of its own format, which hides the reason.
            cause = error.__context__
            if not isinstance(cause, OSError) or cause.errno is None:
                raise
            raise OSError(cause.errno, os.strerror(cause.errno), str(partial)) from error
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_checkpoint(path: Path, fingerprint: str | None, device: torch.device) -> dict[str, Any] | None:
    """Read a checkpoint, or ``None`` if there is none or it is broken (then it is removed and logged).

    Args:
        path: File written by :func:`save_checkpoint`.
        fingerprint: Work it must belong to; ``None`` accepts any.
        device: Where its tensors are loaded.

    Raises:
        TrainingError: If it belongs to other work or to another version of this program.
    """
    if not path.is_file():
        return None
    try:
        check_sums(path)
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(content, dict):
            raise TypeError("it holds no names")
    except Exception as error:  # torch raises many kinds here: a truncated zip, a bad pickle, a wrong header
        if fingerprint is None:
            raise TrainingError(f"{path}: cannot be read as a checkpoint: {_why(error)}.") from error
        _log.warning("%s cannot be read (%s); it is removed and the run starts again.", path, _why(error))
        path.unlink(missing_ok=True)
        return None
    if content.get("format") != FORMAT:
        raise TrainingError(f"{path}: format must be {FORMAT}, got {content.get('format')}. Remove the file.")
    if fingerprint is not None and content.get("fingerprint") != fingerprint:
        raise TrainingError(
            f"{path}: belongs to other work ({content.get('fingerprint')}, not {fingerprint}). "
            "Remove it or use another --workdir."
        )
    return content


def _why(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):
        # torch's own message recommends loading it anyway, which could run code.
        return "it is damaged or holds more than tensors and plain values, which could run code; none was run"
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
