"""When two runs are the same work: as configured, up to a step (a trunk), or once their plan is known.

The name contains everything that determines the numbers: config and data, the content of the initial weights
and, for results, the arithmetic. For trunks and resolved work, schedules, thresholds and ratios count only
through their effect on the training.
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dtme_search.config import FIXED, RunConfig, canonical, finetuning, fingerprint, run_fingerprint
from dtme_search.config.identity import MEASURING
from dtme_search.models import name_weights
from dtme_search.plugins import identity
from dtme_search.schedules import build_schedule
from dtme_search.token_space import ExpansionPlan
from dtme_search.training.runtime import precision
from dtme_search.version import __version__

_CODE_THAT_TRAINS = (
    "config",
    "data",
    "metrics",
    "token_space",
    "schedules",
    "combine",
    "models",
    "training",
    "tasks.py",
    "thinning.py",
)


@dataclass(frozen=True)
class RunContext:
    """The arithmetic with which a run gets its numbers; results with different arithmetic are not compared.

    Attributes:
        device: Kind of device, ``cpu`` or ``cuda``; ``2 x cuda`` for a run on two devices, whose sums differ
            from those of one in the last digits.
        precision: ``float32`` or ``bfloat16``: what ``train.precision`` means on the device.
        torch_version: Version of torch.
        timm_version: Version of timm, which builds the backbone and draws its initial weights.
    """

    device: str
    precision: str
    torch_version: str
    timm_version: str

    @classmethod
    def of(cls, config: RunConfig, device: torch.device, devices: int = 1) -> RunContext:
        """The context of a run in this process, on one or more devices of a kind."""
        kind = device.type if devices == 1 else f"{devices} x {device.type}"
        return cls(kind, precision(config.train, device), torch.__version__, version("timm"))


def checkpoint_fingerprint(config: RunConfig, data_fingerprint: str) -> str:
    """Names the training that a checkpoint belongs to. It may continue with other arithmetic: on whichever
    device is free, or after an update.

    Raises:
        ConfigError: If the initial weights cannot be read.
    """
    return run_fingerprint(config, data_fingerprint, name_weights(config.model))


def result_fingerprint(config: RunConfig, data_fingerprint: str, context: RunContext) -> str:
    """Names the result of a config: a baseline, a final training.

    Raises:
        ConfigError: If the initial weights cannot be read.
    """
    return run_fingerprint(config, data_fingerprint, name_weights(config.model), astuple(context))


def trunk_fingerprint(config: RunConfig, step: int, data_fingerprint: str, context: RunContext) -> str:
    """Names the state of the unexpanded network after ``step`` steps of a run.

    Equal for runs that share everything that shaped the training so far. A later switch makes no difference,
    nor does a decay whose weights have been equal so far. Another seed, recipe, length, data, kind of device,
    version of torch or of this code does.

    Args:
        config: The run.
        step: Steps done.
        data_fingerprint: Fingerprint of its data.
        context: Its arithmetic.
    """
    return fingerprint(
        "trunk",
        step,
        _unexpanded_form(config),
        _weights(config, step),
        data_fingerprint,
        [*astuple(context), code_fingerprint()],
    )


def work_fingerprint(
    config: RunConfig, plan: ExpansionPlan, data_fingerprint: str, context: RunContext
) -> str:
    """Names a whole run by what it trains: equal for runs that end with the same numbers.

    Thresholds and ratios no longer matter once the plan is known, and a plan without layers means no growth,
    whenever it was planned.
    """
    growth: dict[str, Any] = {}
    if not plan.is_empty:
        expansion = config.expansion
        growth = {
            "step": config.expansion_step,
            "plan": plan.fingerprint,
            "lr_multiplier": expansion.lr_multiplier,
            "freeze_backbone": expansion.freeze_backbone,
            "token_std": expansion.token_std if plan.groups["expand"] else None,
        }
        if brought := identity((("operations", name) for name in plan.groups), ()):
            growth["plugins"] = brought
    weights = _weights(config, config.total_steps)
    return fingerprint("work", _unexpanded_form(config), weights, growth, data_fingerprint, astuple(context))


def analysis_fingerprint(config: RunConfig, tasks: tuple[str, ...]) -> str:
    """Names how conflicts are measured; together with a trunk it names a conflict report.

    Args:
        config: The run.
        tasks: Tasks that train at the expansion step.
    """
    settings = {name: getattr(config.expansion, name) for name in MEASURING}
    also = ("gradients",) if config.expansion.compares_gradients else ()
    return fingerprint("conflicts", settings, tasks, *also)


def weights_follow_results(config: RunConfig) -> bool:
    """Whether task weights depend on evaluations or gradients, so that they are not known in advance."""
    schedule = config.schedule
    return bool(config.auxiliary_tasks) and (schedule.patience is not None or schedule.kind not in FIXED)


@cache
def code_fingerprint() -> str:
    """Version of this package and a digest of the training code: an edited decoder counts as another."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for name in _CODE_THAT_TRAINS:
        place = root / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(file.read_bytes())
    return f"{__version__}-{digest.hexdigest()[:12]}"


def _unexpanded_form(config: RunConfig) -> dict[str, Any]:
    form = canonical(config.unexpanded()) | {"weights": name_weights(config.model)}
    if not weights_follow_results(config):
        del form["schedule"]
    return form


def _weights(config: RunConfig, num_steps: int) -> str:
    """Digest of the task weights of the first steps."""
    if weights_follow_results(config):
        return "follow results"
    schedule = build_schedule(config)
    digest = hashlib.sha256()
    stopped = False
    for step in range(num_steps):
        weights = tuple(schedule.weights(step).values())
        digest.update(repr(weights).encode())
        stopped = stopped or 0.0 in weights
    if stopped and config.finetunes:
        digest.update(repr(finetuning(config)).encode())
    return digest.hexdigest()
