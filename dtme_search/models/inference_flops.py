"""Floating point operations of a prediction, of any plan, without weights and before anything is trained.

They add up over the layers, and what a layer costs follows from the streams that come in and go out and
from the operations of each. So every kind of layer is counted once, by PyTorch's own counter on tensors
without memory, and a plan is a sum [ours].
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from dtme_search.models.building import build_model
from dtme_search.models.multitask import MultiTaskViT
from dtme_search.models.operations import folded
from dtme_search.models.streams import Route, Streams, plan_routes, run_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from dtme_search.config import ModelConfig
    from dtme_search.tasks import TaskSpec
    from dtme_search.token_space import ExpansionPlan


@dataclass(frozen=True)
class InferenceFlops:
    """Counts the floating point operations of predicting all tasks for one image.

    Attributes:
        model: The network that never grew, on the meta device.
        image_size: (H, W).

    Example:
        >>> flops = InferenceFlops.of_model(config.model, specs, (96, 128))     # doctest: +SKIP
        >>> flops.ratio(plan)     # doctest: +SKIP
        1.82
    """

    model: MultiTaskViT
    image_size: tuple[int, int]
    _layers: dict[Hashable, int] = field(default_factory=dict)
    _rest: dict[Hashable, int] = field(default_factory=dict)

    @classmethod
    def of_model(
        cls,
        config: ModelConfig,
        specs: Mapping[str, TaskSpec],
        image_size: tuple[int, int],
        plugins: Sequence[str] = (),
    ) -> InferenceFlops:
        """Of the model that a config describes; no weights are read."""
        without = config.model_copy(update={"pretrained": False, "checkpoint": None})
        with torch.device("meta"):
            model = build_model(without, specs, image_size, seed=0, plugins=plugins)
        return cls(model.eval(), image_size)

    def __call__(self, plan: ExpansionPlan | None) -> int:
        """Operations of the network grown by a plan and folded; ``None`` never grew."""
        plan = None if plan is None else folded(plan, self.model.tasks, self.model.plugins)
        routes = self._routes(plan)
        before: list[Streams] = [(self.model.tasks,), *(route.streams for route in routes[:-1])]
        options = () if plan is None else tuple(plan.options.items())
        kinds = [
            (options, _kind(layer, *each)) for layer, each in enumerate(zip(before, routes, strict=True))
        ]
        ends = tuple(routes[level - 1].streams for level in self.model.levels)
        if ends not in self._rest or any(kind not in self._layers for kind in kinds):
            self._count(plan, before, routes, kinds, ends)
        return sum(self._layers[kind] for kind in kinds) + self._rest[ends]

    def ratio(self, plan: ExpansionPlan) -> float:
        """The same in units of the network that never grew."""
        return self(plan) / self(None)

    def _routes(self, plan: ExpansionPlan | None) -> tuple[Route, ...]:
        layers, cpu = self.model.info.num_layers, torch.device("cpu")
        kinds = self.model.kinds_of(plan)
        return plan_routes(plan, self.model.tasks, layers, kinds, share_streams=True, device=cpu)

    @torch.no_grad()
    def _count(
        self,
        plan: ExpansionPlan | None,
        before: Sequence[Streams],
        routes: Sequence[Route],
        kinds: Sequence[Hashable],
        ends: Hashable,
    ) -> None:
        model = self.model
        if plan is not None:
            model = copy.deepcopy(model)
            with torch.device("meta"):
                model.grow(plan, token_std=0.0, seed=0)
        images = torch.empty(1, 3, *self.image_size, device="meta")
        tokens_BLP = model.backbone.embed(images)
        for layer, (block, route, kind) in enumerate(zip(model.backbone.blocks, routes, kinds, strict=True)):
            if kind not in self._layers:
                tokens_NLP = tokens_BLP.expand(len(before[layer]), -1, -1)
                operations = model.operations_at(layer)
                self._layers[kind] = _counted(
                    lambda b=block, t=tokens_NLP, r=route, o=operations: run_layer(b, t, 1, r, o)  # type: ignore[misc]
                )
        if ends not in self._rest:
            whole = _counted(lambda: model(images))
            self._rest[ends] = whole - sum(self._layers[kind] for kind in kinds)


def _kind(layer: int, before: Streams, route: Route) -> Hashable:
    """All that the operations of a layer can depend on: equal kinds cost the same."""
    streams = range(len(route.streams))
    called = [stream for one in route.passes for stream in _members(one.positions, streams)]
    within = {
        name: dict(zip(_members(one.positions, streams), groups.tolist(), strict=True))
        for one in route.passes
        for name, groups in one.groups.items()
    }
    return (
        layer,
        len(before),
        len(called),
        tuple(sorted((name, tuple(sorted(groups.tolist()))) for name, groups in route.groups.items())),
        tuple(sorted((name, len(of)) for name, of in within.items())),
        tuple(len(_members(one.positions, streams)) for one in route.passes),
    )


def _members(positions: torch.Tensor | None, streams: range) -> list[int]:
    return list(streams) if positions is None else [int(each) for each in positions.tolist()]


def _counted(run: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False)
    with torch.compiler.set_stance("force_eager"), counter:
        run()
    return int(counter.get_total_flops())
