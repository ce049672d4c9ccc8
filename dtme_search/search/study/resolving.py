"""What a set of parameters leads to, before training: plan, price, and what it shares with others."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import CategoricalDistribution

from dtme_search.config import RunConfig, Scalar
from dtme_search.config.section import Section
from dtme_search.models import BackboneInfo, sizes_of
from dtme_search.operations import OF_THE_PAPER, OPERATIONS, in_order, operations_of
from dtme_search.schedules import build_schedule
from dtme_search.search.space.parameter import Parameter
from dtme_search.search.space.paths import LAYERS, SEED, START
from dtme_search.search.space.search_space import SearchSpace
from dtme_search.search.storage.rows import ConflictRow, GainRow
from dtme_search.search.study.reports import report_of
from dtme_search.search.trial.outcome import overhead_percent
from dtme_search.token_space import ConflictReport, ExpansionPlan, options_of
from dtme_search.training.growth import plan_for
from dtme_search.training.identity import weights_follow_results

_MEASURING = ("variance_ratio", "num_images", "analysis_batch_size", "decoder_warmup_steps")
_FURTHER = {
    f"expansion.{name}"
    for name in (
        *("token_std", "lr_multiplier", "freeze_backbone"),
        *(option for spec in OPERATIONS.values() for option in spec.options),
    )
}
"""Fields of the growth that are not part of a plan."""
_OPERATIONS_AT = (LAYERS, "expansion.range_operation", "expansion.null_operation")
Params = Mapping[str, Scalar]
_MOST_KNOWN = 20_000


@dataclass(frozen=True)
class Resolved:
    """A set of parameters and what it leads to.

    Attributes:
        params: The parameters, seed included.
        key: Equal for equal work, seed excluded.
        trunk: Equal for runs that are the same until they grow.
        shares: For each possible operation, the groups in each layer, as a share of the tasks.
        streams: Streams through the last layer.
        start: Step of the growth, the last step if it never grows; ``end`` is the number of steps.
        further: Searched choices that are not part of the plan, in numbers; zeros if they have no effect.
        overhead: Added parameters in percent.
        seed: Of the run.
        flops: Operations of a prediction in units of the unexpanded network; ``None`` where nobody counts.
        shape: Equal for networks that are built alike, whatever trains them.
    """

    params: Mapping[str, Scalar]
    key: Hashable
    trunk: Hashable
    shares: Mapping[str, tuple[float, ...]]
    streams: int
    start: int
    end: int
    further: tuple[tuple[float, ...], ...]
    overhead: float
    seed: int
    flops: float | None = None
    shape: Hashable = None

    @property
    def name(self) -> str:
        """The parameters as one line."""
        return json.dumps(dict(self.params), sort_keys=True)

    @property
    def grows(self) -> bool:
        """Whether it grows at all."""
        return self.start < self.end

    @property
    def depth(self) -> float:
        """Share of the layers from the first grown one on."""
        grown = [any(share > 0 for share in layer) for layer in zip(*self.shares.values(), strict=True)]
        return 1 - grown.index(True) / len(grown) if any(grown) else 0.0


@dataclass(frozen=True)
class Resolver:
    """Resolves parameter sets of a space.

    Attributes:
        space: The space.
        backbone: The network that grows.
        flops: Counts the operations of a prediction, if anybody wants to know.
    """

    space: SearchSpace
    backbone: BackboneInfo
    flops: Callable[[RunConfig, ExpansionPlan], float] | None = None
    _reports: dict[Hashable, dict[int, ConflictReport]] = field(default_factory=dict)
    _found: dict[Hashable, int] = field(default_factory=dict)
    _known: dict[Hashable, Resolved] = field(default_factory=dict)

    def learn(
        self,
        params: Params,
        rows: Sequence[ConflictRow],
        gains: Sequence[GainRow] = (),
        step: int | None = None,
    ) -> None:
        """Add the conflicts that a trial with these parameters measured, and where it found that it grows."""
        config = self._config(params)
        where = self._measured_as(config, params)
        step = config.expansion_step if step is None else step
        if not rows or step is None:
            return
        if config.expansion.start == "auto":
            self._found[where] = step
        report = report_of(rows, gains, config.tasks, self.space.num_layers)
        self._reports.setdefault(where, {}).setdefault(step, report)
        self._known.clear()

    def is_unknown(self, params: Mapping[str, Scalar]) -> bool:
        """Whether the plan of these parameters could depend on conflicts that are not known here."""
        config = self._config(params)
        if config.expansion_step is None or not config.expansion.needs_conflicts:
            return False
        where = self._measured_as(config, params)
        if config.expansion.start == "auto":
            return where not in self._found
        return config.expansion_step not in self._reports.get(where, {})

    def __call__(self, params: Mapping[str, Scalar]) -> Resolved:
        """What they lead to; if conflicts are not measured yet, by those of the nearest step."""
        place = tuple(params.items())
        if place not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[place] = self._resolved(params)
        return self._known[place]

    def _settled(self, params: Mapping[str, Scalar]) -> RunConfig:
        """Their config; a start ``auto`` is the one that a trial found, else the first."""
        config = self._config(params)
        if config.expansion.start != "auto" or not config.growth_steps:
            return config
        return config.grown_at(self._found.get(self._measured_as(config, params), config.growth_steps[0]))

    def _resolved(self, params: Mapping[str, Scalar]) -> Resolved:
        config = self._settled(params)
        plan = self._planned(config, params)
        count = len(config.tasks)
        if plan is None:
            shares, streams = self._evenly(config)
            overhead = self._overhead(config, shares)
            operations: Hashable = tuple(sorted(params.items(), key=str))
        else:
            layers = range(self.space.num_layers)
            shares = {
                name: tuple(len(plan.groups.get(name, {}).get(layer, ())) / count for layer in layers)
                for name in self.operations
            }
            streams = _num_streams(plan)
            backbone = self.backbone
            overhead = overhead_percent(plan, backbone, config.plugins)
            operations = tuple((name, tuple(plan.groups.get(name, {}).items())) for name in self.operations)
        grows = overhead > 0
        end = config.total_steps
        start = config.expansion_step if grows and config.expansion_step is not None else end
        further = tuple(
            _in_numbers(parameter, params, grows or not parameter.path.startswith("expansion."))
            for parameter in self.further
        )
        trunk = self._trunk(params)
        return Resolved(
            params=params,
            key=(operations, start if grows else None, trunk, further),
            trunk=trunk,
            shares=shares,
            streams=streams,
            start=start,
            end=end,
            further=further,
            overhead=overhead,
            seed=config.seed,
            flops=self.flops(config, plan) if self.flops is not None and plan is not None else None,
            shape=(operations, tuple(options_of(config.expansion).items()), self._built(params)),
        )

    @property
    def further(self) -> list[Parameter]:
        """Searched paths that are not part of a plan."""
        return [parameter for parameter in self.space.parameters if _is_further(parameter.path)]

    def _planned(self, config: RunConfig, params: Mapping[str, Scalar]) -> ExpansionPlan | None:
        """The plan; ``None`` if it could depend on conflicts that are not known."""
        step = config.expansion_step
        if step is None:
            return ExpansionPlan.empty(tuple(config.tasks), self.space.num_layers)
        active = tuple(config.tasks)
        if not weights_follow_results(config):
            weights = build_schedule(config).weights(step)
            active = tuple(name for name, weight in weights.items() if weight > 0)
        report = None
        if config.expansion.needs_conflicts:
            known = self._reports.get(self._measured_as(config, params), {})
            if not known:
                return None
            report = known[min(known, key=lambda other: (abs(other - step), other))]
            active = report.tasks
        return plan_for(config, report, active, self.space.num_layers)

    @property
    def operations(self) -> tuple[str, ...]:
        """Operations that a plan of this space can have; always those of the paper."""
        base = self.space.base.expansion
        named = {base.range_operation, base.null_operation, *base.possible_operations}
        for parameter in self.space.parameters:
            ranged = parameter.distribution
            if parameter.path.startswith(_OPERATIONS_AT) and isinstance(ranged, CategoricalDistribution):
                named |= {name for choice in ranged.choices for name in operations_of(str(choice))}
        return in_order(named | set(OF_THE_PAPER))

    def _overhead(self, config: RunConfig, shares: Mapping[str, tuple[float, ...]]) -> float:
        """Added parameters in percent for given shares of layers and tasks."""
        used = [name for name, by_layer in shares.items() if any(by_layer)]
        options, backbone = options_of(config.expansion), self.backbone
        sizes = sizes_of(used, options, backbone.embed_dim, backbone.linears, config.plugins)
        added = sum(sum(shares[name]) * size for name, size in sizes.items())
        return 100.0 * len(config.tasks) * added / self.backbone.num_parameters

    def _evenly(self, config: RunConfig) -> tuple[dict[str, tuple[float, ...]], int]:
        """Equal shares for all layers: it is known how many grow, but not which."""
        expansion, layers = config.expansion, self.space.num_layers
        streams = expansion.max_streams or len(config.tasks)
        share = streams / len(config.tasks)
        shares = dict.fromkeys(self.operations, 0.0)
        shares[expansion.range_operation] += expansion.range_layer_ratio * share
        shares[expansion.null_operation] += expansion.null_layer_ratio * share
        return {name: (value,) * layers for name, value in shares.items()}, streams

    def _measured_as(self, config: RunConfig, params: Mapping[str, Scalar]) -> Hashable:
        settings = config.expansion
        measured = (*(getattr(settings, name) for name in _MEASURING), settings.compares_gradients)
        return self._trunk(params), measured

    def _trunk(self, params: Mapping[str, Scalar]) -> Hashable:
        """Everything that determines a run until it grows, seed excluded: all paths outside the growth."""
        outside = [(path, value) for path, value in params.items() if not path.startswith("expansion.")]
        return tuple(item for item in outside if item[0] != SEED)

    def _built(self, params: Mapping[str, Scalar]) -> Hashable:
        """What is searched of the network itself."""
        return tuple(item for item in params.items() if item[0].startswith(("model.", "tasks.", "data.")))

    def _config(self, params: Mapping[str, Scalar]) -> RunConfig:
        """Like ``SearchSpace.config`` but unchecked: thousands of sets are looked at, one is trained."""
        config: Any = self.space.base
        layers = list(config.expansion.layers or ("none",) * self.space.num_layers)
        growth: dict[str, Any] = {}
        for path, value in params.items():
            section, _, name = path.partition(".")
            if path.startswith(f"{LAYERS}."):
                layers[int(path.rpartition(".")[2])] = str(value)
                growth["layers"] = layers
            elif section == "expansion" and "." not in name:
                growth[name] = value
            else:
                config = _put(config, path.split("."), value)
        if "layers" in growth or growth.get("policy", config.expansion.policy) == "per_layer":
            growth["layers"] = tuple(layers)
        config = config.model_copy(update={"expansion": config.expansion.model_copy(update=growth)})
        resolved: RunConfig = config
        return resolved


def _is_further(path: str) -> bool:
    of_plan = path.startswith("expansion.") and not path.startswith("expansion.operation_options.")
    return path not in (START, SEED) and (not of_plan or path in _FURTHER)


def _in_numbers(parameter: Parameter, params: Mapping[str, Scalar], counts: bool) -> tuple[float, ...]:
    """A value from 0 to 1 along its scale; one column per choice if choices have no order."""
    ranged = parameter.distribution
    value = params.get(parameter.path)
    if isinstance(ranged, CategoricalDistribution):
        choices = ranged.choices
        numbers = [float(c) for c in choices if isinstance(c, (int, float)) and not isinstance(c, bool)]
        if len(numbers) < len(choices):
            return tuple(float(counts and value == choice) for choice in choices)
        if not counts or not isinstance(value, (int, float)):
            return (0.0,)
        return (sorted(numbers).index(float(value)) / max(len(numbers) - 1, 1),)
    if not counts or value is None:
        return (0.0,)
    low, high, number = float(ranged.low), float(ranged.high), float(value)
    if ranged.log:
        low, high, number = (math.log(each) for each in (low, high, number))
    return ((number - low) / (high - low),)


def _num_streams(plan: ExpansionPlan) -> int:
    """Streams through the last layer: tasks that were in different groups in any layer have separated."""
    operations = [groups for by_layer in plan.groups.values() for groups in by_layer.values()]
    if any(len(groups) == len(plan.tasks) for groups in operations):
        return len(plan.tasks)
    return plan.num_streams(plan.num_layers - 1)


def _put(node: Any, parts: Sequence[str], value: Any) -> Any:
    if not parts:
        return value
    head, rest = parts[0], parts[1:]
    if isinstance(node, Section):
        return node.model_copy(update={head: _put(getattr(node, head), rest, value)})
    if isinstance(node, Mapping):
        return {**node, head: _put(node.get(head, {}), rest, value)}
    items = list(node)
    items[int(head)] = _put(items[int(head)], rest, value)
    return tuple(items)
