"""Points that a study may try first by name: the model that never grows, and the paper's setting."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from dtme_search.config import RunConfig, Scalar, StudyConfig
from dtme_search.config.dotted import value_at
from dtme_search.config.study import KNOWN_POINTS
from dtme_search.errors import ConfigError, nearest
from dtme_search.search.space.parameter import same
from dtme_search.search.space.paths import LAYERS, POLICY
from dtme_search.search.space.search_space import SearchSpace

_logger = logging.getLogger(__name__)

_Wanted = Mapping[str, tuple[Scalar, ...]]
"""Path -> the value a known point wants, then the next best ones."""

_UNEXPANDED: tuple[_Wanted, ...] = (
    {POLICY: ("none",)},
    {POLICY: ("conflict",), "expansion.range_layer_ratio": (0.0,), "expansion.null_layer_ratio": (0.0,)},
    {POLICY: ("per_layer",), f"{LAYERS}.*": ("none",)},
)
_PAPER: _Wanted = {
    POLICY: ("conflict",),
    "expansion.start": (0.0,),
    "expansion.variance_ratio": (100.0,),
    "expansion.range_layer_ratio": (0.5,),
    "expansion.null_layer_ratio": (0.5,),
    "expansion.range_threshold": (0.0,),
    "expansion.null_threshold": (0.0,),
    "expansion.pair_threshold": (0.0,),
    # Empty means one stream per task, so the largest number is the next best.
    "expansion.max_streams": (None, math.inf),
    "expansion.selection": ("conflict",),
    "expansion.num_task_tokens": (1,),
    "expansion.lr_multiplier": (1.0,),
    "expansion.freeze_backbone": (False,),
    "expansion.decoder_warmup_steps": (0,),
}


def enqueued_point(space: SearchSpace, point: str | Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of an enqueued point: a named point, or values by path.

    Raises:
        ConfigError: As :func:`known_point` or :meth:`SearchSpace.point`.
    """
    return known_point(space, point) if isinstance(point, str) else space.point(point)


def first_points(space: SearchSpace, study: StudyConfig) -> list[dict[str, Any]]:
    """Parameters of all enqueued points; of the default points, those that fit the space.

    Raises:
        ConfigError: If the study names a point that does not fit its space.
    """
    if "enqueue" in study.model_fields_set:
        return [enqueued_point(space, point) for point in study.enqueue]
    found = []
    for name in KNOWN_POINTS:
        with suppress(ConfigError):  # a default that the user did not ask for
            found.append(known_point(space, name))
    return found


def known_point(space: SearchSpace, name: str) -> dict[str, Any]:
    """Parameters of a named point, for ``study.enqueue_trial``.

    ``unexpanded`` is the multi-task model that never grows. ``paper`` is DTME as published: growth at step 0,
    half of the layers by conflicts, variance ratio 100, one stream per task. Values outside a distribution
    are replaced by its nearest value. What the name leaves open takes the base config's value or, if that is
    not among the values, the first choice or the low end.

    Raises:
        ConfigError: If no point has this name, or it does not fit the space; says what to add.
    """
    where = f"study {space.study_name}: enqueue"
    if name == "unexpanded":
        for wanted in _UNEXPANDED:
            params = _closest(space, wanted)
            if _never_grows(space.config(params)):
                return params
        raise ConfigError(
            f"{where}: the space contains no unexpanded model. Add none to the choices of {POLICY} "
            "(or of every layer), let both layer ratios reach 0, or remove 'unexpanded' from enqueue."
        )
    if name == "paper":
        params = _closest(space, _PAPER)
        config = space.config(params)
        if config.expansion.policy != "conflict":
            raise ConfigError(
                f"{where}: the paper's setting needs {POLICY} conflict, the space has only "
                f"{config.expansion.policy}. Add conflict to its choices, or remove 'paper' from enqueue."
            )
        _tell_differences(space, config)
        return params
    raise ConfigError(f"{where}: no point is named '{name}'.{nearest(name, KNOWN_POINTS)}")


def _closest(space: SearchSpace, wanted: _Wanted) -> dict[str, Any]:
    """Values of all active parameters: as close as possible to ``wanted``, then to the base config."""
    base = space.base.model_dump(mode="json")
    params: dict[str, Scalar] = {}
    for parameter in space.parameters:
        if parameter.unmet(params) is not None:
            continue
        of_layer = parameter.path.startswith(f"{LAYERS}.")
        asked = wanted.get(f"{LAYERS}.*" if of_layer else parameter.path)
        if asked is not None:
            params[parameter.path] = parameter.nearest(asked)
            continue
        try:
            value = value_at(base, parameter.path, "none" if of_layer else None)
            params[parameter.path] = parameter.exact(value, "base config")
        except ConfigError:
            params[parameter.path] = parameter.nearest(())
    return params


def _never_grows(config: RunConfig) -> bool:
    expansion = config.expansion
    if expansion.policy == "conflict":
        return expansion.range_layer_ratio == 0 and expansion.null_layer_ratio == 0
    if expansion.policy == "per_layer":
        return set(expansion.layers) == {"none"}
    return expansion.policy == "none"


def _tell_differences(space: SearchSpace, config: RunConfig) -> None:
    values = config.model_dump(mode="json")
    for path, (asked, *_) in _PAPER.items():
        got = value_at(values, path, None)
        # Half of the layers is still half if the grid gives 0.4999998.
        close = isinstance(asked, float) and math.isclose(got, asked, rel_tol=1e-3)
        if not close and not same(got, asked):
            _logger.info(
                "study %s: point 'paper' has %s = %s, the paper %s", space.study_name, path, got, asked
            )
