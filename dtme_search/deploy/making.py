"""From the checkpoint of a run to a file that has been compared with it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dtme_search.config import RunConfig
from dtme_search.data import read_image
from dtme_search.deploy.comparison import Comparison, Speed, compare, seconds_of
from dtme_search.deploy.files import Description, FileKind, Opened, open_file, write_file
from dtme_search.deploy.program import Form, Program
from dtme_search.errors import ConfigError, ExportError, nearest
from dtme_search.models import build_model
from dtme_search.tasks import TaskSpec
from dtme_search.training import restore_model, specs_beside

_MADE_UP = 5


@dataclass(frozen=True)
class Entry:
    """A network in the comparison: parameters, and the time of one image on the CPU."""

    name: str
    parameters: int
    speed: Speed


@dataclass(frozen=True)
class Deployed:
    """A file that was written.

    Attributes:
        description: What it holds.
        comparison: Comparison with PyTorch.
        entries: The file, the network in PyTorch, the one that never grew, one network per task.
    """

    description: Description
    comparison: Comparison
    entries: tuple[Entry, ...]


def deploy_run(
    checkpoint: Path,
    config: RunConfig,
    out: Path,
    kind: FileKind,
    *,
    tasks: Sequence[str] | None = None,
    form: Form = "labels",
    pictures: Sequence[Path] = (),
    tolerance: float = 1e-4,
) -> Deployed:
    """Write the network of a checkpoint to ``out``, which gets its name only after the comparison.

    Args:
        checkpoint: The file, next to its ``tasks.json``.
        config: Of the run.
        out: File to write.
        kind: Its format.
        tasks: Tasks to keep; all by default.
        form: What the file returns for each task.
        pictures: Images for the comparison; generated ones by default.
        tolerance: Largest accepted difference.

    Raises:
        ConfigError: If a task is unknown, a picture cannot be read, or the network cannot be exported.
        ExportError: If the file and PyTorch differ by more.
    """
    specs = specs_beside(checkpoint)
    chosen = _chosen(tasks, tuple(specs))
    images = _pictures(pictures, config.data.image_size)
    model = restore_model(checkpoint, config, specs, torch.device("cpu"))
    program = Program(model, specs, chosen, config.data.normalize, form)
    folded = copy.deepcopy(model)
    folded.fold(chosen)
    written = Program(folded, specs, chosen, config.data.normalize, form)
    description = Description(
        specs=tuple(program.specs.values()),
        image_size=config.data.image_size,
        normalize=config.data.normalize,
        form=form,
        layers="" if model.plan is None else " ".join(model.plan.operations()),
        parameters=_count(written),
    )
    unproven = out.with_name(f".unproven-{out.name}")
    try:
        write_file(written, description, kind, unproven)
        opened = open_file(unproven)
        found = compare(program, opened, images)
        if not found.worst <= tolerance:
            task = max(found.differences, key=found.differences.__getitem__)
            raise ExportError(
                f"{out}: must agree with PyTorch within {tolerance:g}, got {found.worst:.2g} for {task}. "
                "Nothing was written; raise --tolerance if that is good enough."
            )
        entries = _beside_others(program, opened, config, images[:1])
        unproven.replace(out)
    finally:
        unproven.unlink(missing_ok=True)
    return Deployed(description, found, entries)


def _chosen(tasks: Sequence[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    for task in tasks or ():
        if task not in known:
            raise ConfigError(f"--tasks must name tasks of the run, got '{task}'.{nearest(task, known)}")
    return tuple(task for task in known if tasks is None or task in tasks)


def _pictures(paths: Sequence[Path], size: tuple[int, int]) -> Tensor:
    """Pictures scaled to the size of the run, uint8 (B, 3, H, W)."""
    if paths:
        found = [
            torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1)[None].float() for path in paths
        ]
    else:
        generator = torch.Generator().manual_seed(0)
        found = [torch.rand(_MADE_UP, 3, 8, 8, generator=generator) * 255]
    fitted = [interpolate(each, size, mode="bilinear", antialias=True, align_corners=False) for each in found]
    return torch.cat(fitted).round().clamp(0, 255).to(torch.uint8)


def _beside_others(program: Program, opened: Opened, config: RunConfig, image: Tensor) -> tuple[Entry, ...]:
    # Weights do not affect the time, and their file may be gone.
    bare = config.model.model_copy(update={"pretrained": False, "checkpoint": None})

    def network(specs: Mapping[str, TaskSpec]) -> Program:
        built = build_model(bare, specs, config.data.image_size, seed=0, plugins=config.plugins)
        return Program(built, specs, tuple(specs), config.data.normalize, program.form)

    plain = network(program.specs)
    singles = [network({task: spec}) for task, spec in program.specs.items()]
    rows: tuple[tuple[str, Callable[[Tensor], Any], int], ...] = (
        ("this file", opened, _count(program)),
        ("the same in PyTorch", program, _count(program)),
        ("not grown, in PyTorch", plain, _count(plain)),
        (
            f"{len(singles)} single-task networks, in PyTorch",
            lambda images: [single(images) for single in singles],
            sum(map(_count, singles)),
        ),
    )
    return tuple(Entry(name, parameters, seconds_of(call, image)) for name, call, parameters in rows)


def _count(program: Program) -> int:
    return sum(parameter.numel() for parameter in program.model.parameters())
