"""A way to combine tasks: a LossWeighting, or Weighted or Merged for gradients."""

import torch

from dtme_search.combine import CombineKind, LossWeighting
from dtme_search.config import Section


class Options(Section):
    """What YAML may say in train.combine.options.running."""

    pace: float = 0.1


class Running(LossWeighting):
    """Each loss is divided by its running mean."""

    def __init__(self, setting):
        self.mean = torch.ones(setting.num_tasks, device=setting.device)
        self.pace = setting.options.pace

    def weights(self, seen):
        return 1 / self.mean.clamp(min=1e-8)

    def learn(self, seen):
        moved = (1 - self.pace) * self.mean + self.pace * seen.losses_K
        self.mean = torch.where(seen.counted_K, moved, self.mean)

    def state(self):
        return {"mean": self.mean}

    def restore(self, state):
        self.mean = state["mean"].to(self.mean.device)


RUNNING = CombineKind(Running, Options)
