"""Checkpoints: written atomically, loaded with ``weights_only=True``, tied to the work they belong to."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from dtme_search.errors import TrainingError

FORMAT = 1
_log = logging.getLogger(__name__)


def save_checkpoint(path: Path, fingerprint: str, content: dict[str, Any]) -> None:
    """Write tensors and plain values so that a reader sees the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, "fingerprint": fingerprint, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(path: Path, fingerprint: str | None, device: torch.device) -> dict[str, Any] | None:
    """Read a checkpoint, or ``None`` when there is none or it is broken (then it is removed and logged).

    Args:
        path: File written by :func:`save_checkpoint`.
        fingerprint: Work it must belong to; ``None`` accepts any.
        device: Where its tensors go.

    Raises:
        TrainingError: If it belongs to other work or to another version of this program.
    """
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds here: a cut zip, a bad pickle, a wrong header
        if fingerprint is None:
            raise TrainingError(f"{path}: cannot be read as a checkpoint: {error}.") from error
        _log.warning("%s cannot be read (%s); it is removed and the run starts again.", path, error)
        path.unlink(missing_ok=True)
        return None
    if content.get("format") != FORMAT:
        raise TrainingError(f"{path}: format must be {FORMAT}, got {content.get('format')}. Remove the file.")
    if fingerprint is not None and content["fingerprint"] != fingerprint:
        raise TrainingError(
            f"{path}: belongs to other work ({content['fingerprint']}, not {fingerprint}). "
            "Remove it or use another --workdir."
        )
    return content
