"""A trained network as it is published: safetensors, which hold tensors and words, and never code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dtme_search.errors import TrainingError
from dtme_search.models import MultiTaskViT
from dtme_search.models.weights import read_notes, read_tensors, write_tensors
from dtme_search.training.disk import WEIGHTS
from dtme_search.version import __version__

PUBLISHED = "model.safetensors"
"""File of the network in a folder that is published."""
_MARK = "dtme-search"
_HIDDEN = "has_not_seen"


def save_published(path: Path, model: MultiTaskViT, *, has_seen_holdout: bool) -> None:
    """Write the network with its plan; ``restore_model`` reads it like a checkpoint.

    Raises:
        OSError: If the file cannot be written.
    """
    notes = {_MARK: __version__, "plan": "" if model.plan is None else model.plan.to_json()}
    if not has_seen_holdout:
        notes[_HIDDEN] = "holdout"
    write_tensors(path, model.state_dict(), notes)


def load_published(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what :func:`save_published` wrote, in the form of a checkpoint.

    Raises:
        TrainingError: If the file is damaged, or another program wrote it.
    """
    notes = _notes(path)
    try:
        return {"plan": notes["plan"] or None, "model": read_tensors(path, device)}
    except ValueError as error:
        raise _unreadable(path, error) from error


def is_published(path: Path) -> bool:
    """Whether a file is a network that this program published."""
    try:
        return path.is_file() and bool(_notes(path))
    except TrainingError:
        return False


def has_seen_holdout(path: Path) -> bool:
    """Whether the network of a file was trained on all training ids; that of a trial was not."""
    if path.suffix == Path(PUBLISHED).suffix:
        return _HIDDEN not in _notes(path)
    return path.name != WEIGHTS


def _notes(path: Path) -> dict[str, str]:
    try:
        notes = read_notes(path)
    except ValueError as error:
        raise _unreadable(path, error) from error
    if _MARK not in notes or "plan" not in notes:
        raise TrainingError(f"{path}: must be a network that `dtme-search deploy` wrote, got another file.")
    return notes


def _unreadable(path: Path, error: Exception) -> TrainingError:
    return TrainingError(f"{path}: cannot be read as safetensors: {error}. Get the file again.")
