"""Inspect runs without training them to the end: conflicts at the expansion step, models of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dtme_search.config import RunConfig, load_run_config
from dtme_search.data import TaskData
from dtme_search.errors import ConfigError, TrainingError
from dtme_search.models import MultiTaskViT, build_model
from dtme_search.tasks import TaskSpec, load_specs
from dtme_search.token_space import ConflictReport, ExpansionPlan, plan_expansion
from dtme_search.training.average import weights_to_use
from dtme_search.training.callbacks import Callbacks, TrainingInterrupted
from dtme_search.training.checkpoint import load_checkpoint
from dtme_search.training.choices import check_parts
from dtme_search.training.evaluation import check_scoring
from dtme_search.training.published import PUBLISHED, load_published
from dtme_search.training.team.job import check_divides
from dtme_search.training.trainer import Trainer


def check_run(config: RunConfig, data: TaskData, devices: int = 1) -> None:
    """Build the model of a run and the part of its plan that needs no measuring, then discard both.

    Errors in a config or a weight file show up here instead of in the middle of the training.

    Raises:
        ConfigError: From the model or the plan, because the test split would influence the training, or
            because the batches cannot be divided among the ``devices`` of a run.
    """
    check_scoring(config, data.scoring_split)
    check_divides(config.train.batch_size, config.train.accumulate, devices)
    model = build_model(config.model, data.specs, data.image_size, seed=config.seed, plugins=config.plugins)
    check_parts(config, model.info.linears)
    if not config.expansion.needs_conflicts:
        plan_expansion(None, config.expansion, tuple(config.tasks), model.info.num_layers, config.seed)


def conflicts_at_expansion(
    config: RunConfig, data: TaskData, callbacks: Callbacks | None = None
) -> tuple[ConflictReport, ExpansionPlan]:
    """Train to the expansion step, measure there, and return the report with the plan that follows from it.

    A policy that needs no measuring is treated as ``conflict``.
    """
    if config.expansion.policy != "conflict":
        expansion = config.expansion.model_copy(update={"policy": "conflict"})
        config = config.model_copy(update={"expansion": expansion})
    seen: list[tuple[ExpansionPlan, ConflictReport | None]] = []
    heard = replace(
        callbacks or Callbacks(),
        on_expand=lambda plan, report: seen.append((plan, report)),
        should_stop=lambda: bool(seen),
    )
    with suppress(TrainingInterrupted):  # it stops at the step after the growth
        Trainer.of_config(config, data, callbacks=heard).run()
    plan, report = seen[0]
    assert report is not None
    return report, plan


def restore_model(
    path: Path, config: RunConfig, specs: Mapping[str, TaskSpec], device: torch.device
) -> MultiTaskViT:
    """The model of a checkpoint, grown according to its plan, with the averaged weights if the run has them.

    Raises:
        TrainingError: If there is no checkpoint or it does not fit the config.
    """
    if path.suffix == Path(PUBLISHED).suffix:
        saved: dict[str, Any] | None = load_published(path, device)
    else:
        saved = load_checkpoint(path, None, device)
    if saved is None:
        raise TrainingError(f"{path}: no such checkpoint. `dtme-search train` writes one.")
    model_config = config.model.model_copy(update={"pretrained": False, "checkpoint": None})
    model = build_model(
        model_config, specs, config.data.image_size, seed=config.seed, plugins=config.plugins
    ).to(device)
    try:
        if saved["plan"] is not None:
            plan = ExpansionPlan.from_json(saved["plan"])
            model.grow(plan, token_std=config.expansion.token_std, seed=config.seed)
        model.load_state_dict(weights_to_use(saved))
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        # The first mismatch of torch's list.
        reason = [line.strip() for line in str(error).splitlines()][:2][-1].rstrip(".")
        raise TrainingError(f"{path}: does not fit the config beside it: {reason}.") from error
    return model


def config_beside(path: Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """The config of a checkpoint, from the file beside it, with ``path=value`` overrides.

    Raises:
        ConfigError: If it is missing or damaged, or if it came with a published network and names code.
    """
    beside = path.with_name("config.yaml")
    named = load_run_config(str(beside)).plugins if path.suffix == Path(PUBLISHED).suffix else ()
    if named:
        # Whoever looks at a network from elsewhere does not want to run what came with it.
        raise ConfigError(
            f"{beside}: plugins must be empty in a published folder, got {Path(named[0]).name}, which would "
            "run as code. Parts of your own must come from an installed package (docs/plugins.md)."
        )
    return load_run_config(str(beside), overrides)


def specs_beside(path: Path) -> dict[str, TaskSpec]:
    """The tasks of a checkpoint, from the file beside it.

    Raises:
        TrainingError: If it is missing or damaged.
    """
    described = path.with_name("tasks.json")
    if not described.is_file():
        raise TrainingError(
            f"{path}: its tasks.json must be beside it, got none. The same `dtme-search train` writes it."
        )
    try:
        return load_specs(described)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = str(error).splitlines()[0].rstrip(".")
        raise TrainingError(f"{described}: must describe the tasks of the network, got: {what}.") from error
