"""``ExpansionPlan``: which layers grow, by which operation, for which groups of tasks.

A plan is a value: it knows its parameters, its overhead and its task streams before any model grows.
Token modulation (TM) gives a group its own affine map of the shared tokens, token expansion (TE) gives it
its own task tokens (arXiv 2507.07485v2, Sec. 4.3). The paper has one group per task; larger groups are ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from dtme_search.config import FixedPlan, TaskGroups, fingerprint
from dtme_search.errors import ConfigError, nearest
from dtme_search.token_space.text import format_table

Operation = Literal["none", "modulate", "expand", "both"]
"""What happens before the block of one layer."""


@dataclass(frozen=True)
class ExpansionPlan:
    """Groups of tasks per layer and operation.

    Tasks that are in no group of a layer keep the stream they had. Groups are stored in the order of
    ``tasks`` and layers without groups are dropped, so that plans for the same growth are equal.

    Attributes:
        tasks: Every task of the model, in its order.
        num_layers: Layers (blocks) of the backbone.
        num_task_tokens: Task tokens of one TE group in one layer.
        modulate: 0-based layer -> groups that share one token modulation there.
        expand: 0-based layer -> groups that share one set of task tokens there.

    Raises:
        ValueError: If a layer is out of range, a group is empty, a task is unknown or in two groups.

    Example:
        >>> plan = ExpansionPlan(("semseg", "depth"), 4, 1, {1: (("semseg",), ("depth",))}, {})
        >>> plan.operations()
        ('none', 'modulate', 'none', 'none')
        >>> plan.streams(0), plan.streams(3)
        ((('semseg', 'depth'),), (('semseg',), ('depth',)))
        >>> plan.num_parameters(embed_dim=192)
        768
    """

    tasks: tuple[str, ...]
    num_layers: int
    num_task_tokens: int
    modulate: Mapping[int, TaskGroups]
    expand: Mapping[int, TaskGroups]

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks must be different names, at least one, got {list(self.tasks)}.")
        for name in ("num_layers", "num_task_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        object.__setattr__(self, "tasks", tuple(self.tasks))
        for name in ("modulate", "expand"):
            ordered = self._in_order(name, getattr(self, name))
            object.__setattr__(self, name, MappingProxyType(ordered))

    def __reduce__(self) -> tuple[type[ExpansionPlan], tuple[Any, ...]]:
        # A mapping proxy can be neither pickled nor deep-copied, and models that hold a plan are both.
        return ExpansionPlan, (
            self.tasks,
            self.num_layers,
            self.num_task_tokens,
            dict(self.modulate),
            dict(self.expand),
        )

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
        return cls(tuple(tasks), num_layers, 1, {}, {})

    @classmethod
    def from_config(
        cls, plan: FixedPlan, tasks: Sequence[str], num_layers: int, num_task_tokens: int
    ) -> ExpansionPlan:
        """Plan that a config writes out under ``expansion.plan``.

        Raises:
            ConfigError: If it does not fit the tasks or the layers of this model.
        """
        try:
            return cls(tuple(tasks), num_layers, num_task_tokens, plan.modulate, plan.expand)
        except ValueError as error:
            raise ConfigError(f"expansion.plan: {error}") from error

    def to_config(self) -> FixedPlan:
        """The same plan as an exported config writes it."""
        return FixedPlan(modulate=dict(self.modulate), expand=dict(self.expand))

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that grow, ascending."""
        return tuple(sorted({*self.modulate, *self.expand}))

    @property
    def is_empty(self) -> bool:
        """Whether nothing grows."""
        return not self.layers

    @property
    def first_layer(self) -> int | None:
        """First layer that grows; step cost follows it. ``None`` for an empty plan."""
        return min(self.layers, default=None)

    @property
    def fingerprint(self) -> str:
        """Equal for plans that train to the same numbers (task tokens do not count without TE)."""
        form = self._as_dict()
        if not self.expand:
            del form["num_task_tokens"]
        return fingerprint("expansion plan", form)

    def operations(self) -> tuple[Operation, ...]:
        """Operation of every layer: none, modulate, expand or both."""
        names: dict[tuple[bool, bool], Operation] = {
            (False, False): "none",
            (True, False): "modulate",
            (False, True): "expand",
            (True, True): "both",
        }
        return tuple(names[layer in self.modulate, layer in self.expand] for layer in range(self.num_layers))

    def num_parameters(self, embed_dim: int) -> int:
        """Parameters that the growth adds.

        Scale and shift for each TM group (2p), ``num_task_tokens`` vectors for each TE group (mp); with one
        group per task these are the paper's counts.

        Example:
            >>> plan = ExpansionPlan(("a", "b"), 2, 3, {0: (("a", "b"),)}, {0: (("a",),)})
            >>> plan.num_parameters(embed_dim=10)
            50
        """
        num_modulations = sum(map(len, self.modulate.values()))
        num_expansions = sum(map(len, self.expand.values()))
        return embed_dim * (2 * num_modulations + self.num_task_tokens * num_expansions)

    def overhead_percent(self, embed_dim: int, backbone_parameters: int) -> float:
        """Added parameters in percent of the headless backbone with its position embedding."""
        return 100.0 * self.num_parameters(embed_dim) / backbone_parameters

    def streams(self, layer: int, tasks: Sequence[str] | None = None) -> TaskGroups:
        """Streams in which tasks run through the block of ``layer``.

        Tasks share a stream as long as every operation so far, that of ``layer`` included, was the same for
        them: the results are equal and the block runs once (ours; the paper has one stream per task).

        Args:
            layer: 0-based layer.
            tasks: Only these tasks run; all by default.

        Returns:
            A partition of the tasks, in the order of the plan's tasks.

        Raises:
            ValueError: If the layer is out of range or a task is unknown.

        Example:
            >>> plan = ExpansionPlan(("a", "b", "c"), 2, 1, {0: (("a",),)}, {1: (("b",),)})
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
            for operation in (self.modulate, self.expand)
        )

    def num_streams(self, layer: int) -> int:
        """Number of streams through the block of ``layer`` when all tasks run."""
        return len(self.streams(layer))

    def to_json(self) -> str:
        """The plan as one line of JSON."""
        return json.dumps(self._as_dict())

    def _as_dict(self) -> dict[str, Any]:
        return {
            "tasks": self.tasks,
            "num_layers": self.num_layers,
            "num_task_tokens": self.num_task_tokens,
            "modulate": {str(layer): groups for layer, groups in self.modulate.items()},
            "expand": {str(layer): groups for layer, groups in self.expand.items()},
        }

    @classmethod
    def from_json(cls, text: str) -> ExpansionPlan:
        """Read what :meth:`to_json` wrote."""
        form = json.loads(text)
        operations = (
            {int(layer): tuple(map(tuple, groups)) for layer, groups in form[name].items()}
            for name in ("modulate", "expand")
        )
        return cls(tuple(form["tasks"]), form["num_layers"], form["num_task_tokens"], *operations)

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
            >>> plan = ExpansionPlan(("a", "b", "c"), 2, 1, {1: (("a",), ("b", "c"))}, {})
            >>> print(plan.table())
            layer  operation  modulate  expand  streams
            -----  ---------  --------  ------  -------
                0  none                               1
                1  modulate   a | b+c                 2
        """
        rows = [
            (
                str(layer),
                operation,
                self._show(self.modulate.get(layer, ())),
                self._show(self.expand.get(layer, ())),
                str(self.num_streams(layer)),
            )
            for layer, operation in enumerate(self.operations())
        ]
        return format_table(("layer", "operation", "modulate", "expand", "streams"), rows)

    def _show(self, groups: TaskGroups) -> str:
        if len(groups) == len(self.tasks) > 1:
            return "each task"
        if groups == (self.tasks,) and len(self.tasks) > 1:
            return "all tasks together"
        return " | ".join("+".join(group) for group in groups)
