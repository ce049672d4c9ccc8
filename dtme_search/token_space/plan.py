"""``ExpansionPlan``: which layers grow, by which operation, for which groups of tasks.

A plan is a value: it knows its parameters, its overhead and its task streams before any model grows. Its
operations are those of ``dtme_search.operations``, and others by name. The paper (DTME, arXiv
2507.07485v2, Sec. 4.3) has one group per task; larger groups are ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dtme_search.config import ExpansionConfig, FixedPlan, TaskGroups, fingerprint
from dtme_search.errors import ConfigError, nearest
from dtme_search.operations import OF_THE_PAPER, OPERATIONS, Linears, Options, in_order, name_of
from dtme_search.token_space.text import format_table


@dataclass(frozen=True)
class ExpansionPlan:
    """Groups of tasks per operation and layer.

    Tasks that are in no group of a layer keep their stream. Groups are stored in the order of ``tasks``.
    Layers without groups and options of unused operations are dropped, so that plans for the same growth are
    equal.

    Attributes:
        tasks: Every task of the model, in its order.
        num_layers: Layers (blocks) of the backbone.
        groups: Operation -> 0-based layer -> groups that share one there. Every built-in operation is in it.
        options: Fields of ``expansion`` that the operations of the plan read; missing ones have their
            defaults. Options of other operations are named ``<operation>.<option>``.

    Raises:
        ValueError: If a layer is out of range, a group is empty, or a task is unknown or in two groups.

    Example:
        >>> plan = ExpansionPlan(("semseg", "depth"), 4, {"modulate": {1: (("semseg",), ("depth",))}})
        >>> plan.operations()
        ('none', 'modulate', 'none', 'none')
        >>> plan.streams(0), plan.streams(3)
        ((('semseg', 'depth'),), (('semseg',), ('depth',)))
        >>> plan.num_parameters(embed_dim=192)
        768
    """

    tasks: tuple[str, ...]
    num_layers: int
    groups: Mapping[str, Mapping[int, TaskGroups]] = field(default_factory=dict)
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks must be different names, at least one, got {list(self.tasks)}.")
        counts = {"num_layers": self.num_layers, **self.options}
        for name, value in counts.items():
            if isinstance(value, int) and value < 1 and "." not in name:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        used = {name for name, layers in self.groups.items() if any(layers.values())}
        ordered = {
            name: self._in_order(name, self.groups.get(name, {})) for name in in_order({*OPERATIONS, *used})
        }
        options = {
            option: self.options.get(option, default)
            for name, spec in OPERATIONS.items()
            if ordered[name]
            for option, default in spec.options.items()
        }
        options |= {
            option: value
            for option, value in sorted(self.options.items())
            if "." in option and option.partition(".")[0] in used
        }
        object.__setattr__(self, "tasks", tuple(self.tasks))
        frozen = {name: MappingProxyType(layers) for name, layers in ordered.items()}
        object.__setattr__(self, "groups", MappingProxyType(frozen))
        object.__setattr__(self, "options", MappingProxyType(options))

    def __reduce__(self) -> tuple[type[ExpansionPlan], tuple[Any, ...]]:
        # A mapping proxy can be neither pickled nor deep-copied, and models that hold a plan are both.
        groups = {name: dict(layers) for name, layers in self.groups.items()}
        return ExpansionPlan, (self.tasks, self.num_layers, groups, dict(self.options))

    def _in_order(self, name: str, layers: Mapping[int, TaskGroups]) -> dict[int, TaskGroups]:
        position = {task: index for index, task in enumerate(self.tasks)}
        ordered = {}
        for layer, groups in sorted(layers.items()):
            if not 0 <= layer < self.num_layers:
                raise ValueError(f"{name} must name layers from 0 to {self.num_layers - 1}, got {layer}.")
            seen: set[str] = set()
            for group in groups:
                if not group:
                    raise ValueError(
                        f"{name}.{layer} must hold groups of at least one task, got an empty one."
                    )
                for task in group:
                    if task not in position:
                        raise ValueError(
                            f"{name}.{layer} must name tasks of the model, got '{task}'."
                            f"{nearest(task, self.tasks)}"
                        )
                    if task in seen:
                        raise ValueError(f"{name}.{layer} must name each task once, got '{task}' twice.")
                    seen.add(task)
            if groups:
                inner = [tuple(sorted(group, key=position.__getitem__)) for group in groups]
                ordered[layer] = tuple(sorted(inner, key=lambda group: position[group[0]]))
        return ordered

    @classmethod
    def empty(cls, tasks: Sequence[str], num_layers: int) -> ExpansionPlan:
        """Plan of a model that never grows."""
        return cls(tuple(tasks), num_layers)

    @classmethod
    def from_config(cls, expansion: ExpansionConfig, tasks: Sequence[str], num_layers: int) -> ExpansionPlan:
        """Plan that a config writes out under ``expansion.plan``.

        Raises:
            ConfigError: If it does not fit the tasks or the layers of this model.
        """
        try:
            return cls(tuple(tasks), num_layers, expansion.plan.groups, options_of(expansion))
        except ValueError as error:
            raise ConfigError(f"expansion.plan: {error}") from error

    def to_config(self) -> FixedPlan:
        """The same plan as an exported config writes it."""
        form = {name: dict(layers) for name, layers in self.groups.items()}
        other = {name: form.pop(name) for name in set(form) - set(OPERATIONS)}
        return FixedPlan.model_validate({**form, "other": other})

    def at(self, layer: int) -> dict[str, TaskGroups]:
        """The operations of a layer, each with its groups, in the order in which they act."""
        return {name: layers[layer] for name, layers in self.groups.items() if layer in layers}

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that grow, ascending."""
        return tuple(sorted({layer for layers in self.groups.values() for layer in layers}))

    @property
    def is_empty(self) -> bool:
        """Whether nothing grows."""
        return not self.layers

    @property
    def first_layer(self) -> int | None:
        """First layer that grows, which determines the step cost. ``None`` for an empty plan."""
        return min(self.layers, default=None)

    @property
    def fingerprint(self) -> str:
        """Equal for plans that train to the same numbers."""
        return fingerprint("expansion plan", self._as_dict())

    def operations(self) -> tuple[str, ...]:
        """What happens at every layer, as ``dtme_search.operations.name_of`` says it."""
        return tuple(name_of(self.at(layer)) for layer in range(self.num_layers))

    def num_parameters(
        self, embed_dim: int, linears: Linears | None = None, others: Mapping[str, int] = MappingProxyType({})
    ) -> int:
        """Parameters that the growth adds.

        Scale and shift for each TM group (2p), ``num_task_tokens`` vectors for each TE group (mp); with one
        group per task these are the paper's counts.

        Args:
            embed_dim: Width of a token.
            linears: Sizes of the linear maps of a block; read by operations that adapt them.
            others: Parameters of one group in one layer, for operations that are not built in.

        Example:
            >>> groups = {"modulate": {0: (("a", "b"),)}, "expand": {0: (("a",),)}}
            >>> ExpansionPlan(("a", "b"), 2, groups, {"num_task_tokens": 3}).num_parameters(embed_dim=10)
            50
        """
        return sum(
            sum(map(len, layers.values()))
            * (
                OPERATIONS[name].num_parameters(embed_dim, linears or {}, self.options)
                if name in OPERATIONS
                else others[name]
            )
            for name, layers in self.groups.items()
            if layers
        )

    def overhead_percent(
        self,
        embed_dim: int,
        backbone_parameters: int,
        linears: Linears | None = None,
        others: Mapping[str, int] = MappingProxyType({}),
    ) -> float:
        """Added parameters in percent of the headless backbone with its position embedding."""
        return 100.0 * self.num_parameters(embed_dim, linears, others) / backbone_parameters

    def streams(self, layer: int, tasks: Sequence[str] | None = None) -> TaskGroups:
        """Streams in which tasks run through the block of ``layer``.

        Tasks share a stream as long as all their operations so far, including those of ``layer``, were the
        same. The results are equal, and the block runs once (ours; the paper has one stream per task).

        Args:
            layer: 0-based layer.
            tasks: Only these tasks run; all by default.

        Returns:
            A partition of the tasks, in the order of the plan's tasks.

        Raises:
            ValueError: If the layer is out of range or a task is unknown.

        Example:
            >>> groups = {"modulate": {0: (("a",),)}, "expand": {1: (("b",),)}}
            >>> plan = ExpansionPlan(("a", "b", "c"), 2, groups)
            >>> plan.streams(0), plan.streams(1), plan.streams(1, ["b", "a"])
            ((('a',), ('b', 'c')), (('a',), ('b',), ('c',)), (('a',), ('b',)))
        """
        if not 0 <= layer < self.num_layers:
            raise ValueError(f"layer must be from 0 to {self.num_layers - 1}, got {layer}.")
        running = set(self.tasks if tasks is None else tasks)
        if unknown := running - set(self.tasks):
            raise ValueError(f"tasks must be tasks of the plan {list(self.tasks)}, got {sorted(unknown)}.")
        streams: dict[tuple[TaskGroups, ...], list[str]] = {}
        for task in self.tasks:
            if task in running:
                streams.setdefault(self._history(task, layer), []).append(task)
        return tuple(map(tuple, streams.values()))

    def _history(self, task: str, layer: int) -> tuple[TaskGroups, ...]:
        return tuple(
            tuple(group for group in operation.get(index, ()) if task in group)
            for index in range(layer + 1)
            for operation in self.groups.values()
        )

    def num_streams(self, layer: int) -> int:
        """Number of streams through the block of ``layer`` when all tasks run."""
        return len(self.streams(layer))

    def to_json(self) -> str:
        """The plan as one line of JSON."""
        return json.dumps(self._as_dict())

    def _as_dict(self) -> dict[str, Any]:
        # The paper's operations are always written, so that older plans keep their names.
        return {
            "tasks": self.tasks,
            "num_layers": self.num_layers,
            **self.options,
            **{
                name: {str(layer): groups for layer, groups in layers.items()}
                for name, layers in self.groups.items()
                if layers or name in OF_THE_PAPER
            },
        }

    @classmethod
    def from_json(cls, text: str) -> ExpansionPlan:
        """Read what :meth:`to_json` wrote."""
        form = json.loads(text)
        groups = {
            name: {int(layer): tuple(map(tuple, groups)) for layer, groups in layers.items()}
            for name, layers in form.items()
            if isinstance(layers, dict)
        }
        options = {name: value for name, value in form.items() if isinstance(value, int | float | str)}
        return cls(tuple(form["tasks"]), form["num_layers"], groups, options)

    def save(self, path: str | Path) -> None:
        """Write the plan as a JSON file."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> ExpansionPlan:
        """Read what :meth:`save` wrote."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))

    def table(self) -> str:
        """One line per layer: operation, groups that share it, streams through the block.

        Example:
            >>> plan = ExpansionPlan(("a", "b", "c"), 2, {"modulate": {1: (("a",), ("b", "c"))}})
            >>> print(plan.table())
            layer  operation  modulate  expand  streams
            -----  ---------  --------  ------  -------
                0  none                               1
                1  modulate   a | b+c                 2
        """
        shown = self.shown
        rows = [
            (
                str(layer),
                operation,
                *(self._show(self.groups[name].get(layer, ())) for name in shown),
                str(self.num_streams(layer)),
            )
            for layer, operation in enumerate(self.operations())
        ]
        return format_table(("layer", "operation", *shown, "streams"), rows)

    @property
    def shown(self) -> tuple[str, ...]:
        """Operations that get a column in a table: the paper's, and any other that takes part."""
        return tuple(name for name, layers in self.groups.items() if layers or name in OF_THE_PAPER)

    def _show(self, groups: TaskGroups) -> str:
        if len(groups) == len(self.tasks) > 1:
            return "each task"
        if groups == (self.tasks,) and len(self.tasks) > 1:
            return "all tasks together"
        return " | ".join("+".join(group) for group in groups)


def options_of(expansion: ExpansionConfig) -> dict[str, Any]:
    """The fields of a config that operations read, and the options of other operations as plans have them."""
    fields = {option: getattr(expansion, option) for spec in OPERATIONS.values() for option in spec.options}
    return fields | {
        f"{name}.{option}": value
        for name, given in expansion.operation_options.items()
        for option, value in given.items()
    }
