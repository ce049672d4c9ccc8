"""For authors of parts: one line that names the part, the method and the rule that it breaks.

from dtme_search.testing import check_loss, check_parts
check_loss(HUBER, depth())
check_parts(PLUGINS)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dtme_search.errors import BrokenRule
from dtme_search.plugins import FAMILIES
from dtme_search.tasks import depth, edge, normals, regression, semseg
from dtme_search.testing.backbones import check_backbone
from dtme_search.testing.combine import check_combine
from dtme_search.testing.decoders import check_decoder
from dtme_search.testing.losses import check_loss
from dtme_search.testing.metrics import check_metric
from dtme_search.testing.operations import check_operation
from dtme_search.testing.samplers import check_sampler
from dtme_search.testing.schedules import check_schedule

__all__ = [
    "BrokenRule",
    "check_backbone",
    "check_combine",
    "check_decoder",
    "check_loss",
    "check_metric",
    "check_operation",
    "check_parts",
    "check_sampler",
    "check_schedule",
]

_SPECS = {
    "classes": semseg(("wall", "floor", "table")),
    "distance": depth(),
    "normals": normals(),
    "mask": edge(),
    "values": regression("values", 2),
}
_CHECKS: dict[str, Callable[..., None]] = {
    "schedules": check_schedule,
    "combine": check_combine,
    "operations": check_operation,
    "backbones": check_backbone,
    "decoders": check_decoder,
    "samplers": check_sampler,
}


def check_parts(table: Mapping[str, Mapping[str, Any]]) -> None:
    """Check all parts of a table like ``PLUGINS``: family -> name -> part, with default options.

    Losses and metrics are checked on every kind of target that they suit. Data sets and trackers are not
    checked.

    Raises:
        BrokenRule: Names the first rule that is broken.
    """
    for family, parts in table.items():
        if family not in FAMILIES:
            raise BrokenRule(f"'{family}' must be a family of parts: {', '.join(FAMILIES)}.")
        for name, part in parts.items():
            if family in _CHECKS:
                _CHECKS[family](part, name=name)
            elif family in ("losses", "metrics"):
                check = check_loss if family == "losses" else check_metric
                for kind in part.kinds:
                    check(part, _SPECS[kind], name=name)
