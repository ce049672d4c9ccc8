"""``MultiTaskViT``: one backbone, one decoder per task, and growth in token space in mid-training.

Shapes: B images, L tokens (prefix tokens included), P embedding dim, C output channels, S streams,
N = S * B, (h, w) token grid, (H, W) image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from dtme_search.models.backbone import Backbone, BackboneInfo, build_backbone
from dtme_search.models.decoders import DECODERS
from dtme_search.models.seeding import seeded
from dtme_search.models.streams import (
    Route,
    TokenExpansion,
    TokenModulation,
    by_stream,
    draw_drop_paths,
    plan_routes,
    run_layer,
)

if TYPE_CHECKING:
    from dtme_search.config import ModelConfig
    from dtme_search.tasks import TaskSpec
    from dtme_search.token_space import ExpansionPlan


class MultiTaskViT(nn.Module):
    """Shared plain ViT with a decoder per task; see :func:`build_model`.

    Args:
        backbone: The shared transformer.
        decoders: Per task a module from feature maps, each (B, P, h, w), to (B, C, H, W).
        levels: Number of blocks after which each feature map is taken, ascending; the last one is the
            number of layers and stands for the normed output of the backbone.

    Attributes:
        plan: What the model was grown by; ``None`` before growth.
    """

    def __init__(
        self, backbone: Backbone, decoders: Mapping[str, nn.Module], levels: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoders = nn.ModuleDict(decoders)
        self.levels = levels
        self.plan: ExpansionPlan | None = None
        self.modulations = nn.ModuleDict()
        self.expansions = nn.ModuleDict()
        self._routes: dict[tuple[tuple[str, ...], bool, torch.device], tuple[Route, ...]] = {}

    @property
    def info(self) -> BackboneInfo:
        """Sizes of the backbone."""
        return self.backbone.info

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in the order of the decoders."""
        return tuple(self.decoders)

    def forward(
        self, images: Tensor, tasks: Sequence[str] | None = None, *, share_streams: bool = True
    ) -> dict[str, Tensor]:
        """Predict some or all tasks.

        Args:
            images: Normalised images, shape (B, 3, H, W).
            tasks: Only the streams and decoders of these tasks are computed; all by default.
            share_streams: Whether tasks share a stream while their operations are identical. ``False``
                gives every task its own from layer 0 on: the same numbers for more compute.

        Returns:
            Raw outputs per task in the order of the decoders, each (B, C, H, W).

        Raises:
            ValueError: If ``tasks`` is empty or names an unknown task.
        """
        return self._run(images, self._active(tasks), share_streams, None)

    def forward_with_layer_inputs(self, images: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Predict all tasks and keep the input of every block, for the conflict analysis.

        Returns:
            The outputs of :meth:`forward`, and one tensor (B, L, P) per layer, prefix tokens included. All
            of them belong to the autograd graph, also when the backbone is frozen.

        Raises:
            ValueError: If the model has grown: its layers no longer have one input for all tasks.
        """
        if self.plan is not None:
            raise ValueError("layer inputs must be taken before growth, got a model that has a plan.")
        layer_inputs: list[Tensor] = []
        return self._run(images, self.tasks, True, layer_inputs), layer_inputs

    def grow(self, plan: ExpansionPlan, *, token_std: float, seed: int) -> list[nn.Parameter]:
        """Add the modulations and task tokens of a plan in place.

        Outputs right after token modulation equal those before it; task tokens change the attention at
        once, by little when ``token_std`` is small. A checkpoint of a grown model is loaded into a new
        model after growing that by the same plan.

        Args:
            plan: Which layers grow, for which groups of tasks.
            token_std: Standard deviation of new task tokens.
            seed: Seed of the task tokens; those of a layer do not depend on the other layers.

        Returns:
            The new parameters, by layer; within a layer weight and bias of TM, then the tokens of TE.

        Raises:
            ValueError: If the model has grown already, or the plan is for other tasks or layers.
        """
        if self.plan is not None:
            raise ValueError("a model must grow at most once, got a second plan.")
        if set(plan.tasks) != set(self.tasks) or plan.num_layers != self.info.num_layers:
            raise ValueError(
                f"plan must be for tasks {list(self.tasks)} and {self.info.num_layers} layers, "
                f"got tasks {list(plan.tasks)} and {plan.num_layers} layers."
            )
        embed_dim = self.info.embed_dim
        new: list[nn.Parameter] = []
        for layer in range(plan.num_layers):
            if layer in plan.modulate:
                modulation = TokenModulation(len(plan.modulate[layer]), embed_dim)
                self.modulations[str(layer)] = self._place(modulation)
                new += modulation.parameters()
            if layer in plan.expand:
                with seeded(seed, f"task tokens/{layer}"):
                    expansion = TokenExpansion(
                        len(plan.expand[layer]), plan.num_task_tokens, embed_dim, token_std
                    )
                self.expansions[str(layer)] = self._place(expansion)
                new += expansion.parameters()
        self.plan = plan
        self._routes.clear()
        return new

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compile every block with ``torch.compile``; parameters and their names stay as they are.

        A block that cannot be compiled is an error, never an eager one. Blocks of all models in a process
        share their compiled variants, of which torch keeps few, so sizes are left open: more streams, more
        prefix tokens and the last batch of an evaluation need no variant of their own.
        """
        for block in self.backbone.blocks:
            block.compile(backend=backend, fullgraph=True, dynamic=True)

    def _place(self, module: nn.Module) -> nn.Module:
        reference = next(self.backbone.parameters())
        return module.to(reference.device, reference.dtype).train(self.training)

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
    ) -> dict[str, Tensor]:
        backbone, num_images = self.backbone, images.shape[0]
        if self.training:
            draw_drop_paths(backbone.drop_paths, backbone.keep_probs, num_images)
        tokens_NLP = backbone.embed(images)
        if layer_inputs is not None and not tokens_NLP.requires_grad:
            tokens_NLP.requires_grad_()  # a frozen backbone starts no graph

        kept: dict[int, Tensor] = {}
        routes = self._routes_of(tasks, share_streams, images.device)
        for layer, (block, route) in enumerate(zip(backbone.blocks, routes, strict=True)):
            if layer_inputs is not None:
                layer_inputs.append(tokens_NLP)
            modulation = cast("TokenModulation | None", _at(self.modulations, layer))
            expansion = cast("TokenExpansion | None", _at(self.expansions, layer))
            tokens_NLP = run_layer(block, tokens_NLP, num_images, route, modulation, expansion)
            if layer + 1 in self.levels:
                kept[layer + 1] = tokens_NLP

        maps: dict[str, list[Tensor]] = {task: [] for task in tasks}
        for level, num_blocks in enumerate(self.levels):
            tokens_SBLP = by_stream(kept[num_blocks], num_images)[:, :, self.info.num_prefix_tokens :]
            if level == len(self.levels) - 1:
                tokens_SBLP = backbone.norm(tokens_SBLP)
            tokens_SBPL = tokens_SBLP.transpose(-1, -2)
            maps_SBPhw = tokens_SBPL.reshape(*tokens_SBPL.shape[:-1], *self.info.grid)
            for stream, map_BPhw in zip(routes[num_blocks - 1].streams, maps_SBPhw, strict=True):
                for task in stream:
                    maps[task].append(map_BPhw)
        return {task: self.decoders[task](maps[task]) for task in tasks}

    def _routes_of(
        self, tasks: tuple[str, ...], share_streams: bool, device: torch.device
    ) -> tuple[Route, ...]:
        key = (tasks, share_streams, device)
        if key not in self._routes:
            self._routes[key] = plan_routes(
                self.plan, tasks, self.info.num_layers, share_streams=share_streams, device=device
            )
        return self._routes[key]


def _at(operations: nn.ModuleDict, layer: int) -> nn.Module | None:
    key = str(layer)
    return operations[key] if key in operations else None  # noqa: SIM401  (ModuleDict has no get)


def feature_levels(num_layers: int, levels: str) -> tuple[int, ...]:
    """Number of blocks after which each feature map is taken.

    ``concat4`` takes four levels of equal distance: blocks D/4, D/2, 3D/4 and D of D, counted from 1, as
    InvPT and its followers do (3, 6, 9, 12 of 12; 6, 12, 18, 24 of 24). Where D is no multiple of 4 the
    fractions are rounded up (ours). The first three are taken without the final norm.

    Example:
        >>> feature_levels(12, "concat4"), feature_levels(6, "concat4"), feature_levels(6, "last")
        ((3, 6, 9, 12), (2, 3, 5, 6), (6,))
    """
    if levels == "last":
        return (num_layers,)
    return tuple(-(-num_layers * quarter // 4) for quarter in (1, 2, 3, 4))


def build_model(
    config: ModelConfig,
    specs: Mapping[str, TaskSpec],
    image_size: tuple[int, int],
    *,
    seed: int,
    output_means: Mapping[str, Tensor] | None = None,
) -> MultiTaskViT:
    """Build the model of a config on the CPU, not grown.

    Initial weights depend on ``seed`` alone; the global random state is left as it was. A decoder starts
    the same whichever other tasks there are.

    Args:
        config: Backbone, its weights and the decoders.
        specs: Tasks in the order of the outputs.
        image_size: (H, W) of images and predictions.
        seed: Seed of the initial weights.
        output_means: Per task the training mean of its targets, shape (C,), as the initial output; tasks
            that are not named start at zero (ours; it ends a stall of regression tasks at the start).

    Raises:
        ConfigError: If the backbone, its options, its weights or the image size cannot be used.
        ValueError: If ``output_means`` names an unknown task or has a wrong shape.
    """
    means = dict(output_means or {})
    if not set(means) <= set(specs):
        raise ValueError(f"output_means must name some of {list(specs)}, got {list(means)}.")
    backbone = build_backbone(config, image_size, seed)
    levels = feature_levels(backbone.info.num_layers, config.levels)
    decoders: dict[str, nn.Module] = {}
    for name, spec in specs.items():
        with seeded(seed, f"decoder/{name}"):
            decoders[name] = DECODERS[config.decoder](
                in_channels=backbone.info.embed_dim * len(levels),
                channels=config.decoder_channels or backbone.info.embed_dim,
                out_channels=spec.channels,
                image_size=image_size,
                output_mean=means.get(name),
            )
    return MultiTaskViT(backbone, decoders, levels)
