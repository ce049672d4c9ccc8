"""The model card of a published network: what it is, how good, against what, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dtme_search.config import RunConfig, dump_yaml
from dtme_search.metrics import dead_tasks, task_gains
from dtme_search.models import MultiTaskViT, pooling_of
from dtme_search.tasks import TaskSpec
from dtme_search.version import __version__

_HUB_TASKS = {"classes": "image-segmentation", "distance": "depth-estimation"}
"""Kind of a task -> what model hubs call it."""
_NO_LICENCE = "<!-- Say under which licence others may use these weights: also as `license:` above. -->"


@dataclass(frozen=True)
class Facts:
    """What only the caller knows.

    Attributes:
        name: Of the network.
        licence: Identifier of a licence, such as ``mit``.
    """

    name: str
    licence: str | None


def model_card(
    facts: Facts,
    model: MultiTaskViT,
    config: RunConfig,
    specs: Mapping[str, TaskSpec],
    measured: Mapping[str, Any],
    *,
    has_seen_holdout: bool,
    has_backbone: bool,
) -> str:
    """Markdown with a YAML header, as model hubs read it.

    Args:
        facts: Name and licence.
        model: The network.
        config: Of its run.
        specs: Its tasks.
        measured: What `train` wrote about it; may be empty.
        has_seen_holdout: Whether it was trained on all training ids.
        has_backbone: Whether the folder holds the weights of the backbone for timm.
    """
    parts = {
        "": _introduction(model, config, specs),
        "Results": _results(measured, specs),
        "How it was trained": _training(config, measured, has_seen_holdout=has_seen_holdout),
        "Where it grew": _growth(model),
        "Use": _use(config),
        "Backbone": _backbone(model, config) if has_backbone else _NO_BACKBONE,
        "Licence": facts.licence or _NO_LICENCE,
    }
    body = "\n\n".join(f"## {title}\n\n{text}" if title else text for title, text in parts.items())
    return f"---\n{dump_yaml(_header(facts, config, specs, measured))}---\n\n# {facts.name}\n\n{body}\n"


def _header(
    facts: Facts, config: RunConfig, specs: Mapping[str, TaskSpec], measured: Mapping[str, Any]
) -> dict[str, Any]:
    kinds = [_HUB_TASKS[spec.kind] for spec in specs.values() if spec.kind in _HUB_TASKS]
    known = {} if config.data.name == "folder" else {"datasets": [config.data.name]}
    based = {"base_model": f"timm/{config.model.backbone}"} if config.model.pretrained else {}
    results = [
        {"type": specs[task].metric, "name": f"{task} {specs[task].metric}", "value": float(value)}
        for task, value in measured.get("metrics", {}).items()
    ]
    if (delta := measured.get("delta_m_percent")) is not None:
        results.append({"type": "delta_m_percent", "name": "delta_m in percent", "value": float(delta)})
    where = {"type": config.data.name, "name": config.data.name, "split": measured.get("split", "")}
    entry = {"task": {"type": "multi-task-dense-prediction"}, "dataset": where, "metrics": results}
    return {
        **({} if facts.licence is None else {"license": facts.licence}),
        "library_name": "dtme-search",
        **({"pipeline_tag": kinds[0]} if kinds else {}),
        "tags": ["multi-task-learning", "dense-prediction", "vision-transformer", *specs],
        **known,
        **based,
        "metrics": list(dict.fromkeys(spec.metric for spec in specs.values())),
        **({"model-index": [{"name": facts.name, "results": [entry]}]} if results else {}),
    }


def _introduction(model: MultiTaskViT, config: RunConfig, specs: Mapping[str, TaskSpec]) -> str:
    rows = [("task", "kind", "outputs", "labels")]
    for spec in specs.values():
        labels = f"derived from {spec.derived_from}" if spec.derived_from else "annotated"
        rows.append((spec.name, spec.kind, ", ".join(spec.class_names) or str(spec.channels), labels))
    count = sum(parameter.numel() for parameter in model.parameters())
    weights = "timm's pretrained weights" if config.model.pretrained else "random weights"
    return (
        f"A multi-task vision transformer: `{config.model.backbone}` (from "
        f"{'a checkpoint' if config.model.checkpoint else weights}), decoder `{_decoder(config)}`, "
        f"{count:,} parameters, images of {config.data.image_size[0]}x{config.data.image_size[1]}. "
        f"Trained with dtme-search {__version__}.\n\n{_table(rows)}"
    )


def _decoder(config: RunConfig) -> str:
    model = config.model
    return model.decoder if model.architecture == "vit" else model.architecture


def _results(measured: Mapping[str, Any], specs: Mapping[str, TaskSpec]) -> str:
    metrics = measured.get("metrics") or {}
    if not metrics:
        return "Not measured where this card was written; `dtme-search evaluate` does so."
    baselines = {row["task"]: row for row in measured.get("baselines") or ()}
    compared = [spec for name, spec in specs.items() if name in baselines]
    values = {task: row["value"] for task, row in baselines.items()}
    gains = task_gains(metrics, values, compared)
    rows = [("task", "metric", "value", "single-task baseline", "gain %", "guess without the image")]
    for task, value in metrics.items():
        spec, base = specs[task], baselines.get(task)
        beside = ("", "", "")
        if base is not None:
            gain = f"{gains[task]:+.2f}"
            beside = (spec.display(base["value"]), gain, spec.display(base["prior_value"]))
        rows.append((task, spec.metric, spec.display(value), *beside))
    lines = [f"On the {measured['split']} split, at {measured['size']}:", _table(rows)]
    if (delta := measured.get("delta_m_percent")) is not None:
        lines.append(
            f"delta_m {delta:+.2f} %, the mean gain of primary tasks over {measured['against']}; one seed."
        )
    priors = {task: row["prior_value"] for task, row in baselines.items()}
    if dead := dead_tasks(metrics, values, priors, compared):
        lines.append(f"**Network or baseline not clearly better than that guess**: {', '.join(dead)}.")
    return "\n\n".join(lines)


def _training(config: RunConfig, measured: Mapping[str, Any], *, has_seen_holdout: bool) -> str:
    train, seeds = config.train, sorted({row["seed"] for row in measured.get("baselines") or ()})
    on = "all training ids" if has_seen_holdout else "the training ids without the hold-out"
    rows = [
        ("what", ""),
        ("data", f"{config.data.name}: {on}; hold-out {config.data.holdout_fraction:g} of the training ids"),
        ("steps", f"{train.num_steps} of {train.batch_size} images, {train.optimizer}, rate {train.lr:g}"),
        ("roles", ", ".join(f"{task} {each.role}" for task, each in config.tasks.items())),
        ("seeds", f"network and order {config.seed}, hold-out {config.data.holdout_seed}"),
    ]
    if seeds:
        rows.append(("seeds of the baselines", ", ".join(map(str, seeds))))
    return f"{_table(rows)}\n\nEvery setting is in `config.yaml`, which `dtme-search train` takes."


def _growth(model: MultiTaskViT) -> str:
    if model.plan is None or model.plan.is_empty:
        return "Nowhere: all tasks share every layer."
    return f"```text\n{model.plan.table()}\n```"


def _use(config: RunConfig) -> str:
    needs = "" if config.data.name == "scenes" else " --data-root DATA"
    return (
        "Download this folder, then, in it, with `pip install dtme-search`:\n\n"
        f"```bash\ndtme-search predict . photo.jpg\ndtme-search evaluate .{needs}\n```\n\n"
        "The weights are safetensors; nothing in this folder is run as code."
    )


_NO_BACKBONE = "Its architecture changes the inside of the backbone, so timm cannot load it alone."


def _backbone(model: MultiTaskViT, config: RunConfig) -> str:
    height, width = config.data.image_size
    options = "".join(f", {name}={value!r}" for name, value in config.model.backbone_options.items())
    what = "It is the whole encoder of this network."
    if model.plan is not None and not model.plan.is_empty:
        what = (
            "It is what the tasks share, without the operations listed above with which it was trained: the "
            f"features before layer {model.plan.first_layer} are those of the network, later ones are not."
        )
    return (
        f"`backbone.safetensors` holds the transformer under timm's names. {what}\n\n"
        f"```python\nimport timm\n\nbackbone = timm.create_model(\n    {config.model.backbone!r}, "
        f"img_size=({height}, {width}), num_classes=0, global_pool={pooling_of(config.model.backbone)!r},\n"
        f'    checkpoint_path="backbone.safetensors"{options},\n)\n```'
    )


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
