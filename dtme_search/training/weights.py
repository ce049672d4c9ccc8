"""The weights of a trained network alone, for whoever uses it; a checkpoint holds more, to train on."""

from __future__ import annotations

from pathlib import Path

import torch

from dtme_search.tasks import save_specs
from dtme_search.training.checkpoint import save_checkpoint
from dtme_search.training.trainer import Trainer


def save_weights(path: Path, fingerprint: str, trainer: Trainer) -> None:
    """Write the network of a finished run, with its tasks beside it.

    ``restore_model`` reads it like a checkpoint. A reader sees the old file or the new one, never half.

    Args:
        path: The file.
        fingerprint: Work that it belongs to.
        trainer: Of the run, at its end.

    Raises:
        DiskFullError: If the disk does not take it.
        OSError: If the folder cannot be written.
    """
    plan = trainer.state.plan
    content = {"plan": None if plan is None else plan.to_json(), "model": trainer.model.state_dict()}
    save_specs(path.with_name("tasks.json"), trainer.data.specs)
    save_checkpoint(path, fingerprint, content)


def fingerprint_of(path: Path) -> str | None:
    """Work that a file of weights belongs to, without reading its tensors; ``None`` if it cannot be read."""
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return str(content["fingerprint"])
    except Exception:  # torch raises many kinds here; restoring the model names the reason
        return None
