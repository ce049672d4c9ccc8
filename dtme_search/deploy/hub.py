"""From the checkpoint of a run to a folder for a model hub, which this program and timm read again."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from dtme_search.config import RunConfig, dump_yaml
from dtme_search.deploy.card import Facts, model_card
from dtme_search.errors import ConfigError, ExportError
from dtme_search.models import MultiTaskViT, weights_for_timm
from dtme_search.models.weights import write_tensors
from dtme_search.tasks import TaskSpec, save_specs
from dtme_search.training import config_beside, restore_model, specs_beside
from dtme_search.training.published import PUBLISHED, has_seen_holdout, is_published, save_published

BACKBONE = "backbone.safetensors"
DESCRIPTION = "data.yaml"
_CPU = torch.device("cpu")


def publish_run(
    checkpoint: Path, config: RunConfig, out: Path, *, licence: str | None = None, replace: bool = False
) -> tuple[str, ...]:
    """Write the network of a checkpoint as a folder with a model card; nothing in it is code.

    Files are moved into ``out`` only after they were read again and gave the same outputs. Other files in
    it stay.

    Args:
        checkpoint: The file, with config and tasks beside it.
        config: Of the run.
        out: Folder to write.
        licence: Name of a licence for the card; left for the user to fill in by default.
        replace: Whether an older folder of this program may be written over.

    Returns:
        Names of the files.

    Raises:
        ConfigError: If ``out`` holds something else, or the network has parts from files of the user's own.
        ExportError: If the folder cannot be written or read again.
    """
    _check_folder(out, replace=replace)
    if config.plugins:
        raise ConfigError(
            f"--to hub-folder: the run has parts from {Path(config.plugins[0]).name}, and a published folder "
            "must hold no code. Put them into an installed package (docs/plugins.md)."
        )
    specs = specs_beside(checkpoint)
    model = restore_model(checkpoint, config, specs, _CPU).eval()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unproven-", dir=out) as name:
            made = Path(name)
            _write(made, checkpoint, model, config, specs, Facts(out.resolve().name, licence))
            _prove(made, model, config)
            files = tuple(sorted(path.name for path in made.iterdir()))
            for file in files:
                (made / file).replace(out / file)
    except OSError as error:
        raise ExportError(f"{out}: cannot be written: {error.strerror or error}.") from error
    return files


def _check_folder(out: Path, *, replace: bool) -> None:
    """Refuse a folder that holds something else, or something older that shall not be replaced."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out must be a folder with --to hub-folder, got the file {out}.")
    # A fresh clone of a repository holds hidden files and nothing else.
    if not out.is_dir() or all(path.name.startswith(".") for path in out.iterdir()):
        return
    if not is_published(out / PUBLISHED):
        raise ConfigError(f"--out: {out} holds files of somebody else. Give another folder.")
    if not replace:
        raise ConfigError(f"--out: {out} exists already. Give another name, or --force to replace it.")


def _write(
    folder: Path,
    checkpoint: Path,
    model: MultiTaskViT,
    config: RunConfig,
    specs: Mapping[str, TaskSpec],
    facts: Facts,
) -> None:
    seen = has_seen_holdout(checkpoint)
    save_published(folder / PUBLISHED, model, has_seen_holdout=seen)
    backbone = weights_for_timm(model.backbone, config.model, config.data.image_size)
    if backbone:
        write_tensors(folder / BACKBONE, backbone, {})
    save_specs(folder / "tasks.json", specs)
    (folder / "config.yaml").write_text(dump_yaml(_portable(config, folder)), encoding="utf-8")
    measured = _measured(checkpoint)
    if measured:
        (folder / "metrics.json").write_text(json.dumps(measured, indent=1), encoding="utf-8")
    card = model_card(
        facts, model, config, specs, measured, has_seen_holdout=seen, has_backbone=bool(backbone)
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _portable(config: RunConfig, folder: Path) -> RunConfig:
    """The config without places of this machine; the description of one's own data goes along."""
    data, model = config.data.model_copy(update={"root": None}), config.model
    if data.folder.description is not None:
        shutil.copyfile(data.folder.description, folder / DESCRIPTION)
        described = data.folder.model_copy(update={"description": DESCRIPTION})
        data = data.model_copy(update={"folder": described})
    if model.checkpoint is not None:
        model = model.model_copy(update={"checkpoint": Path(model.checkpoint).name})
    return config.model_copy(update={"data": data, "model": model})


def _measured(checkpoint: Path) -> dict[str, Any]:
    """What `train` measured, where it is at hand."""
    with suppress(OSError, ValueError):
        values = json.loads(checkpoint.with_name("metrics.json").read_text(encoding="utf-8"))
        if isinstance(values, dict) and {"split", "size", "metrics", "baselines", "against"} <= set(values):
            return values
    return {}


def _prove(folder: Path, model: MultiTaskViT, config: RunConfig) -> None:
    """Read the folder as `predict` does, and compare."""
    path = folder / PUBLISHED
    read = restore_model(path, config_beside(path), specs_beside(path), _CPU).eval()
    images = torch.randn(2, 3, *config.data.image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, found = model(images), read(images)
    for task, output in wanted.items():
        if not torch.equal(output, found[task]):
            raise ExportError(
                f"{folder.parent}: the network that was written gives other outputs for {task}."
            )
