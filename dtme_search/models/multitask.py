"""``MultiTaskViT``: one backbone, a decoder for its tasks, and growth in token space during training.

Shapes: B images, L tokens (prefix tokens included), P embedding dim, C output channels, S streams,
N = S * B, (h, w) token grid, (H, W) image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from dtme_search.models.backbone import Backbone, BackboneInfo
from dtme_search.models.decoders import Level, Predictions
from dtme_search.models.operations import (
    LAYER_OPERATIONS,
    LayerOperation,
    OperationKind,
    Site,
    find_operation,
    folded,
    groups_to_fold,
    options_for,
)
from dtme_search.models.streams import (
    Route,
    by_stream,
    draw_drop_paths,
    plan_routes,
    run_layer,
)

if TYPE_CHECKING:
    from dtme_search.token_space import ExpansionPlan


_MOST_VARIANTS = 64
"""Compiled variants of a block in one process."""


class MultiTaskViT(nn.Module):
    """Shared plain ViT with a decoder for all tasks; see :func:`build_model`.

    Args:
        backbone: The shared transformer.
        decoders: A module with the signature of :class:`~dtme_search.models.decoders.Decoder`.
        tasks: Tasks in the order of the outputs.
        levels: Number of blocks after which each feature map is taken, ascending; the last one is the number
            of layers and stands for the normed output of the backbone.
        reads_class_token: Whether decoders get the class token of the last level.
        plugins: Files that may provide operations.

    Attributes:
        plan: The plan by which the model has grown; ``None`` before growth.
    """

    def __init__(
        self,
        backbone: Backbone,
        decoders: nn.Module,
        tasks: tuple[str, ...],
        levels: tuple[int, ...],
        *,
        plugins: Sequence[str] = (),
        reads_class_token: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoders = decoders
        self.tasks = tasks
        self.levels = levels
        self.plugins = plugins
        self.reads_class_token = reads_class_token
        self.plan: ExpansionPlan | None = None
        for operation in LAYER_OPERATIONS.values():
            self.add_module(operation.place, nn.ModuleDict())
        self._routes: dict[tuple[tuple[str, ...], bool, torch.device], tuple[Route, ...]] = {}

    @property
    def info(self) -> BackboneInfo:
        """Sizes of the backbone."""
        return self.backbone.info

    def forward(
        self, images: Tensor, tasks: Sequence[str] | None = None, *, share_streams: bool = True
    ) -> dict[str, Tensor]:
        """Predict some or all tasks.

        Args:
            images: Normalised images, shape (B, 3, H, W).
            tasks: Only the streams and decoders of these tasks are computed; all by default.
            share_streams: Whether tasks share a stream while their operations are identical. ``False`` gives
                every task its own stream from layer 0 on: the same numbers for more compute.

        Returns:
            Raw outputs per task in the order of ``self.tasks``, each (B, C, H, W); (B, C, 1, 1) for tasks
            about whole images.

        Raises:
            ValueError: If ``tasks`` is empty or names an unknown task.
        """
        return self._run(images, self._active(tasks), share_streams, None).outputs

    def forward_with_auxiliary(self, images: Tensor, tasks: Sequence[str] | None = None) -> Predictions:
        """Predict like :meth:`forward`, auxiliary outputs included: what training and its losses need."""
        return self._run(images, self._active(tasks), True, None)

    def forward_with_layer_inputs(self, images: Tensor) -> tuple[Predictions, list[Tensor]]:
        """Predict all tasks and keep the input of every block, for the conflict analysis.

        Returns:
            The result of :meth:`forward_with_auxiliary`, and one tensor (B, L, P) per layer, prefix tokens
            included. All of them belong to the autograd graph, even if the backbone is frozen.

        Raises:
            ValueError: If the model has grown: its layers no longer have one input for all tasks.
        """
        if self.plan is not None:
            raise ValueError("layer inputs must be taken before growth, got a model that has a plan.")
        layer_inputs: list[Tensor] = []
        return self._run(images, self.tasks, True, layer_inputs), layer_inputs

    @contextmanager
    def attended(self) -> Iterator[list[Tensor]]:
        """Inside, the list holds what attention gave before its output map: (N, L, U) per layer, last pass.

        Empty if the blocks have no such map of that name.
        """
        seen: list[Tensor] = []
        maps = [_output_map(block) for block in self.backbone.blocks]
        places = {module: layer for layer, module in enumerate(maps) if module is not None}

        def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            if places[module] == 0:
                seen.clear()
            seen.append(given[0])

        hooks = [each.register_forward_pre_hook(note) for each in places] if None not in maps else []
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    def grow(self, plan: ExpansionPlan, *, token_std: float, seed: int) -> list[nn.Parameter]:
        """Build the operations of a plan in place.

        Outputs right after token modulation and LoRA equal those before. Task tokens change the attention at
        once, but only slightly if ``token_std`` is small. To load a checkpoint of a grown model, grow a new
        model by the same plan first.

        Args:
            plan: Which layers grow, for which groups of tasks.
            token_std: Standard deviation of new task tokens.
            seed: Seed of the task tokens; those of a layer do not depend on the other layers.

        Returns:
            The new parameters, by layer; within a layer in the order of the operations.

        Raises:
            ValueError: If the model has already grown, or the plan is for other tasks or layers.
        """
        if self.plan is not None:
            raise ValueError("a model must grow at most once, got a second plan.")
        if set(plan.tasks) != set(self.tasks) or plan.num_layers != self.info.num_layers:
            raise ValueError(
                f"plan must be for tasks {list(self.tasks)} and {self.info.num_layers} layers, "
                f"got tasks {list(plan.tasks)} and {plan.num_layers} layers."
            )
        new: list[nn.Parameter] = []
        kinds = self.kinds_of(plan)
        for name in set(kinds) - set(LAYER_OPERATIONS):
            self.add_module(_place_of(name), nn.ModuleDict())
        for layer, block in enumerate(self.backbone.blocks):
            for name, groups in plan.at(layer).items():
                site = Site(
                    layer,
                    block,
                    num_groups=len(groups),
                    embed_dim=self.info.embed_dim,
                    first_token=self.backbone.first_shared_token,
                    options=options_for(name, kinds[name], plan.options),
                    token_std=token_std,
                    seed=seed,
                )
                operation = self._place(kinds[name].build(site))
                self._built(name)[str(layer)] = operation
                new += operation.parameters()
        self.plan = plan
        self._routes.clear()
        return new

    def draw_for(self, num_images: int) -> None:
        """Make the random draws of a forward pass in training."""
        draw_drop_paths(self.backbone.drop_paths, self.backbone.keep_probs, num_images)

    def fold(self, tasks: Sequence[str] | None = None) -> None:
        """Put operations into the weights, for inference: those that fold and that all of ``tasks`` share.

        Outputs of these tasks stay the same up to rounding; the other tasks can no longer be computed. What
        another task has of its own stays as it is.

        Args:
            tasks: Tasks that will be computed; all by default.
        """
        if self.plan is None:
            return
        active = self._active(tasks)
        for name, layers in groups_to_fold(self.plan, active, self.plugins).items():
            for layer, group in layers.items():
                self.operations_at(layer)[name].fold(self.backbone.blocks[layer], group)
                del self._built(name)[str(layer)]
        self.plan = folded(self.plan, active, self.plugins)
        self._routes.clear()

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compile every block with ``torch.compile``; parameters and their names stay as they are.

        A block that cannot be compiled is an error and never runs eagerly. Blocks of all models in a process
        share their compiled variants, of which torch keeps few. So sizes are left open: more streams, more
        prefix tokens and the last batch of an evaluation need no variant of their own. Drop paths and LoRA
        do, and in training and evaluation those can be more than the eight that torch keeps by default.
        """
        torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, _MOST_VARIANTS)
        for block in self.backbone.blocks:
            block.compile(backend=backend, fullgraph=True, dynamic=True)

    def _place(self, module: LayerOperation) -> LayerOperation:
        reference = next(self.backbone.parameters())
        return module.to(reference.device, reference.dtype).train(self.training)

    def _built(self, name: str) -> nn.ModuleDict:
        """The operations of one kind by layer."""
        return cast("nn.ModuleDict", self.get_submodule(_place_of(name)))

    def kinds_of(self, plan: ExpansionPlan | None) -> dict[str, OperationKind]:
        """The operations of a plan by name."""
        names = () if plan is None else (name for name, layers in plan.groups.items() if layers)
        return {name: find_operation(name, self.plugins) for name in names}

    def operations_at(self, layer: int) -> dict[str, LayerOperation]:
        names = () if self.plan is None else self.plan.at(layer)
        return {name: cast("LayerOperation", self._built(name)[str(layer)]) for name in names}

    def _active(self, tasks: Sequence[str] | None) -> tuple[str, ...]:
        if tasks is None:
            return self.tasks
        if not tasks or not set(tasks) <= set(self.tasks):
            raise ValueError(f"tasks must be some of {list(self.tasks)}, got {list(tasks)}.")
        return tuple(task for task in self.tasks if task in tasks)

    def _run(
        self,
        images: Tensor,
        tasks: tuple[str, ...],
        share_streams: bool,
        layer_inputs: list[Tensor] | None,
    ) -> Predictions:
        backbone, num_images = self.backbone, images.shape[0]
        if self.training:
            self.draw_for(num_images)
        tokens_NLP = backbone.embed(images)
        if layer_inputs is not None and not tokens_NLP.requires_grad:
            tokens_NLP.requires_grad_()  # with a frozen backbone nothing else would start the graph

        kept: dict[int, tuple[Tensor, ...]] = {}
        routes = self._routes_of(tasks, share_streams, images.device)
        for layer, (block, route) in enumerate(zip(backbone.blocks, routes, strict=True)):
            if layer_inputs is not None:
                layer_inputs.append(tokens_NLP)
            operations = self.operations_at(layer)
            tokens_NLP, *beside = run_layer(block, tokens_NLP, num_images, route, operations)
            if layer + 1 in self.levels:
                kept[layer + 1] = tuple(by_stream(one, num_images) for one in (tokens_NLP, *beside))

        levels = []
        for index, num_blocks in enumerate(self.levels):
            tokens_SBLP, *beside = kept[num_blocks]
            is_last = index == len(self.levels) - 1
            maps = self._maps(tokens_SBLP, normed=is_last)
            class_token = backbone.norm(tokens_SBLP[:, :, 0]) if is_last and self.reads_class_token else None
            levels.append(Level(routes[num_blocks - 1].streams, maps, tuple(beside), class_token))
        predictions: Predictions = self.decoders(levels, tasks)
        return predictions

    def _maps(self, tokens_SBLP: Tensor, *, normed: bool) -> Tensor:
        """Patch tokens as maps, (S, B, P, h, w)."""
        patches_SBLP = tokens_SBLP[:, :, self.info.num_prefix_tokens :]
        if normed:
            patches_SBLP = self.backbone.norm(patches_SBLP)
        maps: Tensor = patches_SBLP.transpose(-1, -2).unflatten(-1, self.info.grid)
        return maps

    def _routes_of(
        self, tasks: tuple[str, ...], share_streams: bool, device: torch.device
    ) -> tuple[Route, ...]:
        key = (tasks, share_streams, device)
        if key not in self._routes:
            self._routes[key] = plan_routes(
                self.plan,
                tasks,
                self.info.num_layers,
                self.kinds_of(self.plan),
                share_streams=share_streams,
                device=device,
            )
        return self._routes[key]


def _place_of(name: str) -> str:
    """Part of the model that holds the modules of an operation by layer."""
    return LAYER_OPERATIONS[name].place if name in LAYER_OPERATIONS else f"operation_{name}"


def _output_map(block: nn.Module) -> nn.Module | None:
    """The linear map after the attention of a block, as timm names it."""
    return next((part for name, part in block.named_modules() if name.endswith("attn.proj")), None)
