"""What a way to combine is built from, and how one from a user is watched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dtme_search.combine.base import CombineState, LossWeighting, Merged, Method, Seen, Weighted
from dtme_search.config import NoOptions, Section
from dtme_search.guards import Guard, shape_or_type


@dataclass(frozen=True)
class Setting:
    """What a method may be built from.

    Attributes:
        options: Its own options, checked; for a built-in method the section ``train.combine``.
        num_tasks: K, number of tasks of the run.
        window: Steps between two evaluations.
        device: Where losses are.
        draw: Step -> CPU generator, for methods that draw.
    """

    options: Any
    num_tasks: int
    window: int
    device: torch.device
    draw: Callable[[int], torch.Generator]


@dataclass(frozen=True)
class CombineKind:
    """Entry of the registry.

    Attributes:
        build: Makes the method at the start of a run; ``None`` is a plain sum, for built-in ones only.
        options: Section that checks ``train.combine.options.<name>``.
    """

    build: Callable[[Setting], Method | None]
    options: type[Section] = NoOptions


def guarded_combine(kind: CombineKind, part: str) -> CombineKind:
    """The same kind; its methods tell which rule they break."""
    guard = Guard(part)

    def build(setting: Setting) -> Method:
        with guard.calling("build"):
            made = kind.build(setting)
        if isinstance(made, Weighted):
            return Weighted(_weights_of_rows(made, guard))
        if isinstance(made, Merged):
            return Merged(_merged(made, guard))
        if isinstance(made, LossWeighting):
            return GuardedWeighting(made, setting.num_tasks, guard)
        rule = f"give a LossWeighting, Weighted or Merged of dtme_search.combine, got {type(made).__name__}"
        raise guard.broken("build", rule)

    return replace(kind, build=build)


def _weights_of_rows(method: Weighted, guard: Guard) -> Callable[[Tensor, torch.Generator], Tensor]:
    def weights(gram_AA: Tensor, generator: torch.Generator) -> Tensor:
        with guard.calling("weights"):
            factors = method.weights(gram_AA, generator)
        guard.hold(*_shape("weights", factors, (len(gram_AA),)))
        rule = f"give finite numbers, got {factors.tolist()}"
        guard.hold(bool(factors.isfinite().all()), "weights", rule)
        return factors.detach().double()

    return weights


def _merged(method: Merged, guard: Guard) -> Callable[[Tensor, torch.Generator], Tensor]:
    def merge(gradients: Tensor, generator: torch.Generator) -> Tensor:
        with guard.calling("merge"):
            update = method.merge(gradients, generator)
        guard.hold(*_shape("merge", update, gradients.shape[1:]))
        # A gradient that is not finite itself is left to the loss log, which names the task.
        holds = bool(update.isfinite().all()) or not bool(gradients.isfinite().all())
        guard.hold(holds, "merge", "give finite numbers")
        return update

    return merge


class GuardedWeighting(LossWeighting):
    """A weighting of losses from a user.

    Args:
        method: The weighting.
        num_tasks: K.
        guard: Names it.
    """

    def __init__(self, method: LossWeighting, num_tasks: int, guard: Guard) -> None:
        self._method, self._num_tasks, self._guard = method, num_tasks, guard
        self.needs_losses, self.needs_norms = method.needs_losses, method.needs_norms
        self.looks_again = method.looks_again

    def weights(self, seen: Seen) -> Tensor:
        with self._guard.calling("weights"):
            weights_K = self._method.weights(seen)
        self._guard.hold(*_shape("weights", weights_K, (self._num_tasks,)))
        # This waits for the device, which built-in methods never do.
        counted_K = weights_K[seen.active_K]
        holds = bool((counted_K.isfinite() & (counted_K >= 0)).all())
        # Losses that are not finite are left to the loss log, which names the task.
        holds = holds or not bool(seen.losses_K.isfinite().all())
        got = f"{weights_K.tolist()} at step {seen.step}"
        rule = f"give finite numbers of 0 or more to active tasks, got {got}"
        self._guard.hold(holds, "weights", rule)
        return weights_K.detach()

    def learn(self, seen: Seen) -> None:
        with self._guard.calling("learn"):
            self._method.learn(seen)

    def state(self) -> dict[str, Tensor]:
        with self._guard.calling("state"):
            state = self._method.state()
        is_plain = isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values())
        self._guard.hold(is_plain, "state", f"give names with tensors, got {state!r}")
        return dict(state)

    def restore(self, state: CombineState) -> None:
        with self._guard.calling("restore"):
            self._method.restore(state)


def _shape(method: str, found: object, shape: tuple[int, ...]) -> tuple[bool, str, str]:
    """Whether a result is a tensor of a shape, the method, and the rule."""
    got = shape_or_type(found, Tensor)
    return got == tuple(shape), method, f"give a tensor of shape {tuple(shape)}, got {got}"
