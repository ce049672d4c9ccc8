"""Rules of ways to combine tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from dtme_search.combine import CombineKind, LossWeighting, Merged, Seen, Setting, Weighted, guarded_combine
from dtme_search.guards import Guard
from dtme_search.testing.words import words_of

_CPU = torch.device("cpu")
_TASKS, _STEPS = 3, 12


def check_combine(kind: CombineKind, options: Any = None, *, name: str = "") -> None:
    """Check a way to combine on made-up losses or gradients.

    Args:
        kind: The way to combine.
        options: Its options; by default their defaults.
        name: For messages.

    Raises:
        BrokenRule: Names the first rule that is broken.
    """
    guard = Guard(words_of("combine", name))
    options = kind.options() if options is None else options

    def build(num_tasks: int = _TASKS) -> Any:
        return guarded_combine(kind, guard.part).build(Setting(options, num_tasks, 4, _CPU, _generator))

    method = build()
    if isinstance(method, LossWeighting):
        _check_weighting(build, guard)
    elif isinstance(method, Weighted):
        for rows in _gradients():
            gram = (rows @ rows.T).double()
            _check_pure(build(len(rows)).weights, gram, "weights", guard)
    elif isinstance(method, Merged):
        for rows in _gradients():
            for shape in ((8,), (2, 4), (2, 2, 2)):
                _check_pure(build(len(rows)).merge, rows.view(-1, *shape), "merge", guard)


def _check_weighting(build: Callable[[], LossWeighting], guard: Guard) -> None:
    straight = _weights(build())
    for stop in (1, 4, 7):
        first, second = build(), build()
        _weights(first, end=stop)
        second.restore({key: value.clone() for key, value in first.state().items()})
        same = all(map(torch.equal, _weights(second, start=stop), straight[stop:]))
        rule = f"let a run that is resumed after {stop} steps go on with the same weights"
        guard.hold(same, "state and restore", rule)


def _weights(method: LossWeighting, start: int = 0, end: int = _STEPS) -> list[Tensor]:
    """Weights of active tasks in a run in which one task stops, and one has no valid pixels at times."""
    history = []
    for step in range(start, end):
        active_K = torch.tensor([True, True, step < 9])
        losses_K = torch.rand(_TASKS, generator=_generator(step)) + torch.tensor([0.1, 5.0, 0.1])
        losses_K[1] = 0.0 if step % 5 == 4 else losses_K[1]
        losses_K = losses_K * active_K
        known_K = losses_K if method.needs_losses else torch.zeros(_TASKS)
        weights_K = method.weights(Seen(step, active_K, known_K))
        history.append(weights_K[active_K].clone())
        norms_K = losses_K.sqrt() if method.needs_norms else None
        after_K = 0.9 * losses_K if method.looks_again else None
        method.learn(Seen(step, active_K, losses_K, norms_K, after_K))
    return history


def _gradients() -> Iterator[Tensor]:
    """Gradients (A, 8) of tasks: random, all equal, opposed, and up to 1000 times apart in length."""
    for num_tasks in (2, 3, 5):
        rows = torch.randn(num_tasks, 8, generator=_generator(num_tasks))
        yield rows
        yield rows[:1].expand(num_tasks, -1).contiguous()
        yield torch.cat((rows[:1], -rows[:1], rows[2:]))
        yield rows * torch.logspace(0, 3, num_tasks)[:, None]


def _check_pure(call: Callable[..., Tensor], given: Tensor, method: str, guard: Guard) -> None:
    before = given.clone()
    first = call(given, _generator(1))
    guard.hold(torch.equal(given, before), method, "not change the tensor that it gets")
    rule = "give the same for the same input and generator, and draw from nothing else"
    guard.hold(torch.equal(call(given, _generator(1)), first), method, rule)


def _generator(step: int) -> torch.Generator:
    return torch.Generator().manual_seed(step)
