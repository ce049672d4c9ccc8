"""A right part of each family, as a user writes them into one file; tests break one method at a time."""

from __future__ import annotations

from pathlib import Path

PARTS = '''
import torch
from torch import nn

from dtme_search.combine import CombineKind, LossWeighting
from dtme_search.config import Section
from dtme_search.metrics import MetricKind
from dtme_search.models.operations import LayerOperation, OperationKind
from dtme_search.schedules import Memoryless, ScheduleKind
from dtme_search.training.losses import LossKind


class Size(Section):
    size: float = 1.0


class Ramp(Memoryless):
    """From size to 0 along the run."""

    def __init__(self, setting):
        self.setting = setting

    def weights(self, step):
        setting = self.setting
        return setting.tasks.scaled(setting.options.size * (1 - step / setting.total_steps))


class Running(LossWeighting):
    """1 / running mean of the losses."""

    def __init__(self, setting):
        self.mean, self.pace = torch.ones(setting.num_tasks), setting.options.size / 10

    def weights(self, seen):
        return 1 / self.mean

    def learn(self, seen):
        moved = (1 - self.pace) * self.mean + self.pace * seen.losses_K
        self.mean = torch.where(seen.counted_K, moved, self.mean)

    def state(self):
        return {"mean": self.mean}

    def restore(self, state):
        self.mean = state["mean"]


class Shift(LayerOperation):
    """A vector per group that is added to the tokens."""

    def __init__(self, site):
        super().__init__()
        self.vectors = nn.Parameter(0.1 * site.options.size * torch.randn(site.num_groups, site.embed_dim))

    def enter(self, tokens, groups):
        vectors = torch.cat((self.vectors, torch.zeros_like(self.vectors[:1])))
        return tokens + vectors[groups][:, None, None]


def squares(prediction, target, setting):
    return (prediction - target).square().mean(1)


class Worst:
    """Largest error of a pixel."""

    def __init__(self, spec, options):
        self.reset()

    def reset(self):
        self.worst = []

    def update(self, prediction, target, valid):
        self.worst += [float((prediction - target)[valid].abs().max())] if valid.any() else []

    def compute(self):
        if not self.worst:
            raise ValueError("no valid pixels")
        return max(self.worst)


PLUGINS = {
    "operations": {"shift": OperationKind(Shift, Shift, lambda embed_dim, linears, options: embed_dim, Size)},
    "schedules": {"ramp": ScheduleKind(Ramp, Size)},
    "combine": {"running": CombineKind(Running, Size)},
    "losses": {"squares": LossKind(squares, ("distance",))},
    "metrics": {"worst": MetricKind(Worst, ("distance",), higher_is_better=False)},
}
'''


def write_parts(folder: Path, *breaking: tuple[str, str]) -> str:
    """Write the parts into ``own_parts.py``, with texts replaced; gives the path."""
    source = PARTS
    for right, wrong in breaking:
        assert source.count(right) == 1, right
        source = source.replace(right, wrong)
    file = folder / "own_parts.py"
    file.write_text(source)
    file.chmod(0o600)
    return str(file)
