"""Rules of metrics."""

from __future__ import annotations

import torch

from dtme_search.config import Section
from dtme_search.guards import Guard
from dtme_search.metrics import MetricKind, guarded_metric
from dtme_search.tasks import TaskSpec
from dtme_search.testing.made_up import made_up
from dtme_search.testing.words import words_of


def check_metric(kind: MetricKind, spec: TaskSpec, options: Section | None = None, *, name: str = "") -> None:
    """Check a metric on generated data of a task; arguments as for ``check_loss``.

    Raises:
        BrokenRule: Names the first rule that is broken.
    """
    guard = Guard(words_of("metrics", name))
    meter = guarded_metric(kind, guard.part).build(spec, kind.options() if options is None else options)
    prediction, target, valid = made_up(spec, 4)
    try:
        meter.compute()
    except ValueError:
        pass
    else:
        raise guard.broken("compute", "raise ValueError if there was no valid pixel")
    meter.update(prediction, target, valid)
    whole = meter.compute()
    meter.reset()
    for half in (slice(0, 1), slice(1, 4)):
        meter.update(prediction[half], target[half], valid[half])
    parts = meter.compute()
    rule = "not depend on earlier images after reset, nor on how images are cut into batches"
    guard.hold(abs(parts - whole) <= 1e-6 * max(1.0, abs(whole)), "update and reset", rule)
    meter.reset()
    meter.update(torch.where(valid, prediction, 1e6), target, valid)
    holds = abs(meter.compute() - whole) <= 1e-6 * max(1.0, abs(whole))
    guard.hold(holds, "update", "ignore pixels that are not valid")
