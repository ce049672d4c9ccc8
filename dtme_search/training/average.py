"""A moving average of the weights, which is what a run is measured by and leaves behind (``train.ema``).

Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging" (1992); the decay and its
warm-up are those of TensorFlow's ``tf.train.ExponentialMovingAverage`` with ``num_updates``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of the parameters of a model, beside the parameters that train.

    After the step that follows t steps it is

        average <- d average + (1 - d) weights,  d = min(decay, (1 + t) / (10 + t)),

    so that the initial weights are soon forgotten. It starts as the initial weights, and parameters of a
    growth join with their value at that moment [ours]: a growth that leaves the outputs of the network as
    they are does so for the averaged network. Running statistics of batch norm are not averaged: the averaged
    network uses those of the network [ours].

    Only evaluations, and whatever uses the trained network, see the average. Training, the measurement of
    conflicts, task weights that follow gradients and the cost of a step use the weights themselves.

    Args:
        model: Its parameters.
        decay: At least 0, below 1; with 0 the average is the weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.values: dict[str, Tensor] = {}
        self.join()

    def join(self) -> None:
        """Take in parameters that are new."""
        for name, parameter in self.model.named_parameters():
            if name not in self.values:
                self.values[name] = parameter.detach().clone()

    def update(self, step: int) -> None:
        """Take in the weights after the step that follows ``step`` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        torch._foreach_lerp_(list(self.values.values()), [weights[name] for name in self.values], 1 - decay)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Continue from ``values`` of another average of the same model."""
        self.values = {name: values[name].to(old.device) for name, old in self.values.items()}

    @torch.no_grad()
    def settle(self) -> None:
        """Put the averaged weights into the model for good."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(self.values[name])

    def _swap(self) -> None:
        # Memory changes hands, nothing is copied; the optimiser knows the parameters, not their memory.
        for name, parameter in self.model.named_parameters():
            parameter.data, self.values[name] = self.values[name], parameter.data


def weights_to_use(saved: Mapping[str, Mapping[str, Tensor] | None]) -> dict[str, Tensor]:
    """From a state, the weights of the network to use: averaged where the run averages."""
    return {**(saved["model"] or {}), **(saved.get("average") or {})}
