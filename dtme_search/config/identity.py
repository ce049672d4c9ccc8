"""Two configs are the same work when their canonical forms are equal; the fingerprint names that form."""

from __future__ import annotations

import functools
import hashlib
import json
import operator
from typing import Any

from dtme_search.config.combine import OPTIONS
from dtme_search.config.parts import named_parts
from dtme_search.config.run import DataConfig, ExpansionConfig, ModelConfig, RunConfig, TrainConfig
from dtme_search.config.schedule import ScheduleConfig
from dtme_search.operations import OF_THE_PAPER, OPERATIONS
from dtme_search.plugins import identity

NUMERICS_VERSION = 2
"""Raise it whenever the same config would train to different numbers; part of every fingerprint."""

_WHERE_NOT_WHAT = {
    ("data",): {"root", "folder", "missing", "storage", "storage_limit_gb", "loader_workers"},
    ("data", "taskonomy"): {"split", "incomplete"},
    ("model",): {"checkpoint"},
    ("train",): {"checkpoint_seconds", "statistics"},
}
"""Fields identified otherwise: the data set by its own fingerprint, the weights of a file by its digest."""
_OF_DATA_SETS = {"scenes", "nyud", "taskonomy"}
"""Sections of data that only the data set of that name reads."""
MEASURING = frozenset({"variance_ratio", "num_images", "analysis_batch_size", "decoder_warmup_steps"})
"""Fields of expansion that say how conflicts are measured."""
_RANKING = {
    "range_layer_ratio",
    "null_layer_ratio",
    "range_threshold",
    "null_threshold",
    "selection",
}
_OFF_BY_DEFAULT = ("accumulate", "backbone_lr_multiplier", "layer_decay", "decoder_warmup_steps", "ema")
"""Fields of train that are left out at their default, so that older work keeps its name."""
_MERGING = {"pair_threshold", "max_streams"}
_OF_SCHEDULES = {
    "diminish": ("initial_weight", "decay_power"),
    "switch": ("switch_at", "patience"),
    "inverse_gradient_norm": ("total", "every", "epsilon"),
    "fisher_trace": ("total", "every", "images"),
}
"""Fields that a schedule reads, besides those that every schedule reads."""
_GROWING = {"start", "num_task_tokens", "token_std", "lr_multiplier", "freeze_backbone"}


def canonical(config: RunConfig) -> dict[str, Any]:
    """Plain form of a config without the fields that cannot change its numbers.

    Fields that say where or how fast (``data.root``, ``data.storage``, ...) are dropped, and so are fields
    that the chosen policy, schedule or data set never reads. The content of the YAML of ``data.folder`` is in
    the fingerprint of the data.
    """
    form = config.model_dump(mode="json")
    del form["plugins"]
    form["tasks"] = {name: _active_task(task) for name, task in form["tasks"].items()}
    if brought := identity(((part.family, part.name) for part in named_parts(config)), config.plugins):
        form["plugins"] = brought
    del form["baselines"]  # what a run is compared with does not change its own numbers
    for sections, names in _WHERE_NOT_WHAT.items():
        section = functools.reduce(operator.getitem, sections, form)
        for name in names:
            del section[name]
    for name in _OF_DATA_SETS - {config.data.name}:
        del form["data"][name]
    for name in ("options", "resize", "score_at"):
        if form["data"][name] == DataConfig.model_fields[name].default:
            del form["data"][name]
    form["model"] = _active_model(config.model, form["model"])
    form["expansion"] = _active_expansion(config.expansion, form["expansion"])
    form["schedule"] = _active_schedule(config, form["schedule"])
    _keep_active_combine(config, form["train"])
    for name in _OFF_BY_DEFAULT:
        if form["train"][name] == TrainConfig.model_fields[name].default:
            del form["train"][name]
    if not config.expansion_step:
        # If the growth comes first or never, the steps after it are all steps.
        form["train"]["count_from"] = "start"
    return form


def fingerprint(*parts: Any) -> str:
    """Short stable name of any JSON-like values: 16 hexadecimal digits of a SHA-256.

    Example:
        >>> fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})
        True
    """
    text = json.dumps([NUMERICS_VERSION, *parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_fingerprint(config: RunConfig, *parts: Any) -> str:
    """Fingerprint of the work that ``config`` describes; ``parts`` add what it does not contain."""
    return fingerprint(canonical(config), *parts)


def _active_task(form: dict[str, Any]) -> dict[str, Any]:
    """Drop loss and metric where they are those of the data set."""
    active = {name: form[name] for name in ("weight", "role")}
    for part in ("loss", "metric"):
        if (chosen := form[part]) is not None:
            active[part] = chosen
            if options := form[f"{part}_options"].get(chosen):
                active[f"{part}_options"] = options
    return active


def _active_model(model: ModelConfig, form: dict[str, Any]) -> dict[str, Any]:
    if model.architecture == ModelConfig().architecture:
        idle = {"architecture", "architecture_options", "decoder_options"}
        options = {"decoder_options": model.decoder_options.get(model.decoder)}
    else:  # the architecture has its own decoder
        idle = {"architecture_options", "decoder", "decoder_options", "levels"}
        options = {"architecture_options": model.architecture_options.get(model.architecture)}
    for name in ("checkpoint_grid", "image_head"):
        if form[name] == ModelConfig.model_fields[name].default:
            idle.add(name)
    active = {name: value for name, value in form.items() if name not in idle}
    return active | {name: value for name, value in options.items() if value}


def _active_expansion(expansion: ExpansionConfig, form: dict[str, Any]) -> dict[str, Any]:
    if expansion.policy == "none":
        return {"policy": "none"}
    active = {"policy"} | _GROWING | ({"auto_starts"} if expansion.start == "auto" else set())
    if expansion.policy == "fixed":
        active |= {"plan"}
    if expansion.policy == "per_layer":
        active |= {"layers"}
    if expansion.needs_conflicts:
        active |= MEASURING | _MERGING
    if expansion.ranks_by_conflicts:
        active |= _RANKING
    if expansion.ranks_by_conflicts:
        # The paper's choice is left out, so that older work keeps its name.
        active |= {
            name
            for name in ("range_operation", "null_operation")
            if form[name] != ExpansionConfig.model_fields[name].default
        }
    for name in expansion.possible_operations:
        active |= set(OPERATIONS[name].options) if name in OPERATIONS else set()
    if expansion.operation_options:
        own = {name: form["operation_options"].get(name) for name in expansion.possible_operations}
        form = form | {"operation_options": {name: options for name, options in own.items() if options}}
        active |= {"operation_options"} if form["operation_options"] else set()
    if "plan" in active:
        form = form | {"plan": _plan_form(form["plan"])}
    return {name: value for name, value in form.items() if name in active}


def expansion_in_full(config: RunConfig) -> dict[str, Any]:
    """The whole section, whatever the policy reads, except for new operations at their defaults."""
    form = config.expansion.model_dump(mode="json")
    new = {"range_operation", "null_operation", "auto_starts", "operation_options"} | {
        option for name, spec in OPERATIONS.items() if name not in OF_THE_PAPER for option in spec.options
    }
    form["plan"] = _plan_form(form["plan"])
    fields = ExpansionConfig.model_fields
    return {name: value for name, value in form.items() if name not in new or value != fields[name].default}


def _plan_form(plan: dict[str, Any]) -> dict[str, Any]:
    return {name: layers for name, layers in plan.items() if layers or name in OF_THE_PAPER}


def _active_schedule(config: RunConfig, form: dict[str, Any]) -> dict[str, Any]:
    schedule: ScheduleConfig = config.schedule
    if not config.auxiliary_tasks:
        return {"kind": "constant"}
    names = {"kind", *_OF_SCHEDULES.get(schedule.kind, ())}
    if schedule.kind == "diminish":
        names.add("half_life" if schedule.decay_rate is None else "decay_rate")
    names |= {name for name in ("patience", "stop_at") if form[name] is not None}
    active = {name: value for name, value in form.items() if name in names}
    if options := form["options"].get(schedule.kind):
        active["options"] = options
    if config.finetunes:
        active["finetune"] = finetuning(config)
    return active


def finetuning(config: RunConfig) -> dict[str, Any]:
    """The fields of ``schedule.finetune`` that a run with selective fine-tuning reads."""
    form = config.schedule.finetune.model_dump(mode="json")
    if form["parts"]:
        return {"parts": form["parts"]}
    measures = form["selection"] in ("importance", "reversed")
    return {
        name: form[name]
        for name in ("fraction", "selection", *(("importance", "images") if measures else ()))
    }


def _keep_active_combine(config: RunConfig, train: dict[str, Any]) -> None:
    """A plain sum is left out, and so is any method if there is nothing to combine."""
    form = train.pop("combine")
    kind = config.train.combine.kind
    if kind != "sum" and len(config.tasks) > 1:
        train["combine"] = {name: form[name] for name in ("kind", *OPTIONS.get(kind, ()))}
        if options := form["options"].get(kind):
            train["combine"]["options"] = options
