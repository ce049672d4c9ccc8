"""A run so small that it takes a second, and studies of such runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from dtme_search.config import set_path

if TYPE_CHECKING:
    from dtme_search.search import LoadedStudy

TINY = {
    "data": {
        "name": "scenes",
        "image_size": [32, 48],
        "scenes": {"num_train": 24, "num_test": 4},
        "augment": {"scale": [1.0, 1.3]},
    },
    "model": {
        "backbone": "vit_tiny_patch16_224",
        "backbone_options": {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2},
    },
    "expansion": {"policy": "none", "num_images": 6, "analysis_batch_size": 3},
    "train": {
        "num_steps": 10,
        "batch_size": 4,
        "optimizer": "adamw",
        "lr": 1e-3,
        "num_evaluations": 2,
        "eval_batch_size": 4,
    },
}
"""Plain values of a config: four tasks, three layers, ten steps, no growth."""

SEARCH = {
    "expansion.policy": {"choices": ["none", "conflict", "per_layer"]},
    "expansion.start": {"choices": [0.0, 0.5], "when": {"expansion.policy": ["conflict", "per_layer"]}},
    "expansion.layers.*": {
        "choices": ["none", "modulate", "expand", "both"],
        "when": {"expansion.policy": "per_layer"},
    },
}
"""Where and when the tiny model grows."""


def grown(*layers: str, start: float = 0.5) -> dict[str, Any]:
    """A point of ``SEARCH``: one operation for each of the three layers, or none for growth by conflicts."""
    point = {"expansion.policy": "per_layer" if layers else "conflict", "expansion.start": start}
    return point | {f"expansion.layers.{index}": operation for index, operation in enumerate(layers)}


def with_paths(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with dotted paths set; ``__`` stands for a dot where paths are keyword arguments."""
    found = dict(values)
    for path, value in changes.items():
        found = set_path(found, path.replace("__", "."), value)
    return found


def write_tiny_study(folder: Path, changes: dict[str, Any] | None = None, **fields: Any) -> str:
    """Write ``<name>.yaml`` with ``fields`` of a study around ``TINY``; gives the path.

    Args:
        folder: Where to write.
        changes: Dotted path -> value, for the base config.
        fields: Fields of the study; a name, ``SEARCH`` and no enqueued points by default.
    """
    config = with_paths(TINY, changes or {})
    values = {"name": "tiny", "trials": 3, "search": SEARCH, "enqueue": [], **fields, "config": config}
    file = folder / f"{values['name']}.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return str(file)


class Finished(NamedTuple):
    """A study that has all its trials. Shared by the whole test run: look, but change nothing."""

    study: LoadedStudy
    workdir: Path
    file: str
