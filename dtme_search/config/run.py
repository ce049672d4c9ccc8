"""``RunConfig``: everything that decides the numbers of one training run, and nothing else.

Where a run happens (device, folders, database) is not part of it. Every field can be searched by its dotted
path, for example ``expansion.start``. Defaults are the papers' if they give one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from dtme_search.config.combine import MOST_TASKS, WEIGH_LOSSES, CombineConfig, StatisticsConfig
from dtme_search.config.dotted import set_path
from dtme_search.config.recipes import BaselineRecipes
from dtme_search.config.schedule import ADAPTIVE, ScheduleConfig
from dtme_search.config.section import Fraction, Option, OptionsByName, Section, one_of_parts
from dtme_search.operations import CHOICES, LORA_TARGETS, OPERATIONS, in_order, operations_of
from dtme_search.paths import expanded

Count = Annotated[int, Field(ge=1)]
"""A whole number of 1 or more."""

LayerChoice = Annotated[str, one_of_parts(("auto", *CHOICES))]
OperationName = Annotated[str, one_of_parts(tuple(OPERATIONS))]
if TYPE_CHECKING:
    LoraTargets = str
else:  # pydantic and the JSON schema know the names, whatever else is registered
    LoraTargets = Literal[LORA_TARGETS]
LayerIndex = Annotated[int, Field(ge=0)]

LONGEST_NAME = 64
"""Letters of a task's name that fit into a column of the database."""
TaskGroups = tuple[tuple[str, ...], ...]
"""Tasks that share one operation: ``[[semseg], [depth, normals]]``."""


class AugmentConfig(Section):
    """Training augmentation; each sample draws its own values."""

    scale: tuple[float, float] = (0.5, 2.0)
    """Zoom drawn uniformly from [low, high]; depth is divided by it."""
    flip: Fraction = 0.5
    """Probability of a left-right mirror."""
    photometric: Fraction = 0.5
    """Probability of each of brightness, contrast, saturation and hue."""
    crop_max_class_fraction: Fraction = 0.75
    """A crop is redrawn while one semseg class covers more than this share of it; 1 switches it off."""
    crop_tries: Annotated[int, Field(ge=1, le=50)] = 10
    """Crops drawn at most; the last one is kept."""

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> Self:
        low, high = self.scale
        if not 0.0 < low <= high:
            raise ValueError(f"scale must be [low, high] with 0 < low <= high, got [{low}, {high}]")
        return self


class ScenesConfig(Section):
    """The built-in rendered rooms (data.name: scenes)."""

    num_train: Annotated[int, Field(ge=4)] = 512
    """Training scenes, hold-out included."""
    num_test: Annotated[int, Field(ge=2)] = 128
    """Test scenes."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the renderer."""


class NyudConfig(Section):
    """NYU Depth V2 in the published folder layout (data.name: nyud)."""

    num_classes: Annotated[int, Field(ge=2, le=255)] = 40
    """Classes of the segmentation PNGs: 40, or 39 where otherprop is merged with unlabelled."""


class FolderConfig(Section):
    """Your own data in a folder (data.name: folder)."""

    description: str | None = None
    """YAML that says where images and labels are. The fingerprint holds its content, not its place."""


class TaskonomyConfig(Section):
    """Taskonomy in one of the published layouts (data.name: taskonomy)."""

    split: str = "tiny"
    """tiny, or a csv file with the columns id, train, val and test (relative to data.root). Not part of the
    fingerprint: the buildings it lists are."""
    incomplete: Literal["refuse", "skip"] = "refuse"
    """Views and buildings with missing files: stop with an error, or leave them out."""
    mask_margin: Annotated[int, Field(ge=0, le=64)] = 4
    """Pixels around a hole of the scan that do not count; 0 is the mask of the Taskonomy task bank."""
    test_images: Annotated[int, Field(ge=1)] | None = None
    """Score only this many test views, chosen by a hash of their names; empty = all."""


class DataConfig(Section):
    """Which images, at what size, split how."""

    name: str = "scenes"
    """Data set: scenes, nyud, pascal_context, taskonomy, folder, or one that an installed package brings."""
    root: str | None = None
    """Folder of the data set; --data-root and DTME_DATA_ROOT override it. Not part of the fingerprint."""
    missing: Literal["refuse", "skip"] = "refuse"
    """Images without the label file of a task: stop with an error, or train them on their other tasks. The
    description of a folder can say so task by task. Not part of the fingerprint: which files exist is."""
    image_size: tuple[int, int] = (64, 96)
    """[height, width] of training and evaluation tensors, multiples of the patch size. With data.name: folder
    a size that suits the images and has at most 1024 tokens is chosen unless you set it."""
    holdout_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Share of the training ids that the search evaluates on; the test split is never read by a search."""
    holdout_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the choice of the hold-out."""
    limit_train: Annotated[int, Field(ge=2)] | None = None
    """Use only this many training ids (chosen by holdout_seed), hold-out included."""
    resize: Literal["area", "nearest"] = "area"
    """How labels of larger images are made to fit: by what they are (outlines stay lines, areas keep their
    share), or the nearest pixel, as published pipelines do."""
    score_at: Literal["auto", "tensor", "label"] = "auto"
    """Size at which metrics are measured: that of image_size, or the labels' own, to which predictions are
    enlarged. auto: image_size in a search, the labels' own on the test split."""
    normalize: Literal["imagenet", "half"] = "imagenet"
    """Image statistics: ImageNet's, or mean and standard deviation 0.5."""
    storage: Literal["auto", "device", "loader"] = "auto"
    """Keep the data as tensors on the device, read it with a DataLoader, or decide by size. Same numbers."""
    storage_limit_gb: Annotated[float, Field(gt=0)] = 8.0
    """With storage auto: the largest set that is kept on the device."""
    loader_workers: Annotated[int, Field(ge=0, le=64)] = 2
    """Processes of the DataLoader."""
    augment: AugmentConfig = AugmentConfig()
    scenes: ScenesConfig = ScenesConfig()
    nyud: NyudConfig = NyudConfig()
    folder: FolderConfig = FolderConfig()
    options: dict[str, Option] = {}
    """Passed to the data set of an installed package, which defines their meaning."""
    taskonomy: TaskonomyConfig = TaskonomyConfig()

    @model_validator(mode="after")
    def _sizes_are_positive(self) -> Self:
        if min(self.image_size) < 1:
            raise ValueError(
                f"image_size must be [height, width], both 1 or more, got {list(self.image_size)}"
            )
        return self


class TaskConfig(Section):
    """Weight and role of one task."""

    weight: Annotated[float, Field(gt=0.0)] = 1.0
    """Factor of its loss."""
    role: Literal["primary", "auxiliary", "absent"] = "primary"
    """Auxiliary tasks follow the schedule and do not count in delta_m; absent ones are left out."""
    loss: str | None = None
    """Training loss, built in or your own (docs/plugins.md); empty = what the data set says."""
    loss_options: OptionsByName = {}
    """Options of losses by their names; only those of the chosen one are read."""
    metric: str | None = None
    """Metric, built in or your own; empty = what the data set says."""
    metric_options: OptionsByName = {}
    """Options of metrics by their names; only those of the chosen one are read."""


class ModelConfig(Section):
    """Backbone and decoders."""

    backbone: str = "vit_tiny_patch16_224"
    """Name of a plain ViT of timm (ViT, DeiT, DINOv2, DINOv3, EVA; with class and register tokens)."""
    backbone_options: dict[str, Option] = {}
    """Passed to timm, for example embed_dim, depth, num_heads, patch_size for a small ViT."""
    pretrained: bool = False
    """Load timm's pretrained weights for this name from its hub."""
    checkpoint: str | None = None
    """Or load backbone weights from this file (.safetensors, .pt, .pth, .bin)."""
    checkpoint_grid: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Rows and columns of patches of these weights; empty = those of data.image_size, or square."""
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Stochastic depth of the last block, linear over the blocks; one draw for all tasks."""
    architecture: str = "vit"
    """vit: the backbone as it is, followed by a decoder. taskprompter: one prompt per task passes through all
    blocks; it has its own decoder. See docs/architectures.md."""
    architecture_options: dict[str, dict[str, int | float | bool | str]] = {}
    """Options of architectures by their names; only those of the chosen one are read."""
    decoder: str = "simple"
    """How tasks are decoded. simple: 3x3 conv, BN, ReLU, 1x1 conv, bilinear. All: docs/architectures.md."""
    decoder_channels: Annotated[int, Field(ge=1)] | None = None
    """Width of the decoder; empty = its default, which for simple is the backbone's embedding width."""
    decoder_options: OptionsByName = {}
    """Options of decoders by their names; only those of the chosen one are read."""
    image_head: Literal["mean", "class"] = "mean"
    """What tasks about the whole image read in their stream: the mean of the patch tokens, or the class
    token."""
    levels: Literal["last", "concat4"] = "last"
    """Feed the simple decoder the last layer, or four levels concatenated."""

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> Self:
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("pretrained and checkpoint cannot be combined, got both")
        return self


class FixedPlan(Section):
    """An explicit plan: for each layer, counted from 0, the groups of tasks that share an operation."""

    modulate: dict[LayerIndex, TaskGroups] = {}
    """Token modulation, for example {5: [[semseg], [depth, normals]]}."""
    expand: dict[LayerIndex, TaskGroups] = {}
    """Token expansion, same form."""
    lora: dict[LayerIndex, TaskGroups] = {}
    """LoRA, same form."""
    other: dict[str, dict[LayerIndex, TaskGroups]] = {}
    """Operations of your own by their names, each in the same form."""

    @property
    def groups(self) -> dict[str, dict[int, TaskGroups]]:
        """Operation -> layer -> groups."""
        return {name: getattr(self, name) for name in OPERATIONS} | self.other

    @model_validator(mode="after")
    def _groups_part_the_tasks(self) -> Self:
        for operation, layers in self.groups.items():
            for layer, groups in layers.items():
                tasks = [task for group in groups for task in group]
                if not all(groups) or not groups or len(set(tasks)) != len(tasks):
                    raise ValueError(
                        f"{operation}.{layer} must hold groups that are not empty and name each task at most "
                        f"once, got {[list(group) for group in groups]}"
                    )
        return self


Start = Annotated[float, Field(ge=0.0, lt=1.0)]
Selection = Literal["conflict", "random", "reversed", "swapped", "gradient_similarity", "gain"]


class ExpansionConfig(Section):
    """When and where the network grows in token space (DTME, arXiv 2507.07485)."""

    policy: Literal["none", "conflict", "per_layer", "fixed"] = "conflict"
    """none: never grow. conflict: rank layers by conflicts. per_layer: follow layers. fixed: follow plan."""
    start: Start | Literal["auto"] = 0.0
    """Fraction of train.num_steps after which the network grows; the paper's best is 0. auto: the first of
    auto_starts at which conflicts rank the layers beyond chance."""
    auto_starts: Annotated[tuple[Start, ...], Field(min_length=1)] = (0.0, 0.25, 0.5)
    """With start auto: fractions at which conflicts are measured; at the last the network grows anyway."""
    variance_ratio: Annotated[float, Field(gt=0.0)] = 100.0
    """Variance of the range space over that of the null space (r of the paper)."""
    range_layer_ratio: Fraction = 0.5
    """Share of the layers that get token modulation."""
    null_layer_ratio: Fraction = 0.5
    """Share of the layers that get token expansion."""
    range_threshold: Fraction = 0.0
    """A layer whose range conflict rate is below this is not modulated."""
    null_threshold: Fraction = 0.0
    """A layer whose null conflict rate is below this is not expanded."""
    pair_threshold: Fraction = 0.0
    """A task whose largest pair conflict in a layer is below this keeps the shared stream there."""
    max_streams: Annotated[int, Field(ge=1)] | None = None
    """Merge the least conflicting tasks until at most this many groups remain; empty = one per task."""
    selection: Selection = "conflict"
    """Which layers: most conflicts first, one of the paper's controls, least similar gradients first, or
    gain: those first where splitting the tasks surely gains, to first order."""
    range_operation: OperationName = "modulate"
    """Operation of the layers that range conflicts choose; the paper's is modulate."""
    null_operation: OperationName = "expand"
    """Operation of the layers that null conflicts choose; the paper's is expand."""
    layers: tuple[LayerChoice, ...] = ()
    """Policy per_layer: one choice for each layer; auto = decided by conflicts. Operations of your own are
    joined by plus signs."""
    plan: FixedPlan = FixedPlan()
    """Policy fixed: the plan itself, as an export writes it."""
    num_task_tokens: Annotated[int, Field(ge=1, le=64)] = 1
    """Task tokens that token expansion adds per group and layer."""
    token_std: Annotated[float, Field(ge=0.0)] = 0.02
    """Standard deviation of new task tokens."""
    lora_rank: Annotated[int, Field(ge=1)] = 4
    """Rank of LoRA; at most the width of the maps that it adapts."""
    lora_alpha: Annotated[float, Field(gt=0.0)] = 4.0
    """LoRA's term counts lora_alpha / lora_rank."""
    lora_targets: LoraTargets = "qkv+proj"
    """Maps of a block that LoRA adapts: qkv, proj (attention), fc1, fc2 (MLP), joined by plus signs."""
    operation_options: OptionsByName = {}
    """Options of operations of your own (docs/plugins.md) by their names."""
    lr_multiplier: Annotated[float, Field(gt=0.0)] = 1.0
    """Learning rate of the new parameters over that of the old ones."""
    freeze_backbone: bool = False
    """Train only decoders and new parameters after the growth (the paper: hurts)."""
    num_images: Annotated[int, Field(ge=2)] = 128
    """Training images on which conflicts are measured."""
    analysis_batch_size: Annotated[int, Field(ge=1)] = 16
    """Images per backward pass of that measurement."""
    decoder_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Train the decoders alone for this many steps before measuring; undone afterwards."""

    @property
    def ranks_by_conflicts(self) -> bool:
        """Whether conflicts choose layers."""
        return self.policy == "conflict" or (self.policy == "per_layer" and "auto" in self.layers)

    @property
    def compares_gradients(self) -> bool:
        """Whether gradients on the weights of each layer are compared beside the conflicts of its tokens."""
        return self.ranks_by_conflicts and self.selection == "gradient_similarity"

    @property
    def possible_operations(self) -> tuple[str, ...]:
        """Operations that a plan of this section can have."""
        given: set[str] = set()
        if self.policy == "fixed":
            given = {name for name, layers in self.plan.groups.items() if layers}
        if self.ranks_by_conflicts:
            given |= {self.range_operation, self.null_operation}
        if self.policy == "per_layer":
            given |= {name for choice in self.layers for name in operations_of(choice)}
        return in_order(given)

    @property
    def needs_conflicts(self) -> bool:
        """Whether a plan follows from measured conflicts, in its layers or in its groups of tasks."""
        merges = self.pair_threshold > 0 or self.max_streams is not None
        if self.start == "auto" and self.policy != "none":
            return True
        return self.ranks_by_conflicts or (self.policy == "per_layer" and merges)

    @property
    def starts(self) -> tuple[float, ...]:
        """Fractions at which the network may grow, ascending."""
        return tuple(sorted(set(self.auto_starts))) if self.start == "auto" else (self.start,)

    @staticmethod
    def step_of(start: float, num_steps: int) -> int:
        """Step before which a network grows if it grows after the fraction ``start`` of ``num_steps``."""
        return min(round(start * num_steps), num_steps - 1)

    @model_validator(mode="after")
    def _policy_has_what_it_follows(self) -> Self:
        if self.policy == "fixed" and not any(self.plan.groups.values()):
            raise ValueError(
                "policy fixed needs a plan with at least one layer, got none. Use policy none for no growth"
            )
        if self.policy == "per_layer" and not self.layers:
            raise ValueError("policy per_layer needs layers, one choice for each layer, got none")
        return self


class TrainConfig(Section):
    """Optimisation and evaluation."""

    num_steps: Annotated[int, Field(ge=1)] = 400
    """Optimiser steps."""
    count_from: Literal["start", "expansion"] = "start"
    """Whether num_steps counts all steps, or those after the expansion (the paper equalises the latter)."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Images per step."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Number of equal parts a batch is processed in; their gradients add up to one step."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """Adam with coupled weight decay as in the paper, or AdamW."""
    lr: Annotated[float, Field(gt=0.0)] = 2e-5
    """Learning rate at the first step."""
    backbone_lr_multiplier: Annotated[float, Field(gt=0.0)] = 1.0
    """Learning rate of the backbone over that of the decoders; below 1 for pretrained weights."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Factor of the learning rate from each block to the one before it; empty = same rate for all blocks."""
    decoder_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Initial steps in which the backbone is frozen and only the decoders train."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-6
    """Weight decay."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Linear warm-up before the polynomial decay."""
    poly_power: Annotated[float, Field(ge=0.0)] = 0.9
    """Power of the polynomial learning rate schedule."""
    grad_clip: Annotated[float, Field(gt=0.0)] | None = None
    """Largest L2 norm of the gradient; empty = no clipping."""
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Decay of a moving average of the weights that is measured, kept and exported instead of the weights,
    for example 0.999; empty = no average."""
    combine: CombineConfig = CombineConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    edge_positive_weight: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    """Weight of edge pixels in the balanced BCE."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast on CUDA, float32 elsewhere."""
    deterministic: Literal["auto", "always", "never"] = "auto"
    """auto: deterministic algorithms on the CPU, so that a resumed run is equal bit for bit."""
    compile: bool = False
    """torch.compile the blocks (pays on long GPU runs; recompiles at the growth)."""
    num_evaluations: Annotated[int, Field(ge=1)] = 8
    """Evaluations on the hold-out, evenly spread; the last one is the result."""
    eval_batch_size: Annotated[int, Field(ge=1)] = 16
    """Images per evaluation step."""
    checkpoint_seconds: Annotated[float, Field(ge=0.0)] = 60.0
    """Seconds between checkpoints. Not part of the fingerprint."""

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate must divide batch_size ({self.batch_size}), got {self.accumulate}. "
                "Take parts of equal size"
            )
        return self


class RunConfig(Section):
    """One complete training run; the content of a ``configs/*.yaml`` and of an export."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of weights, data order, augmentation and stochastic depth."""
    data: DataConfig = DataConfig()
    tasks: dict[str, TaskConfig] = {
        "semseg": TaskConfig(),
        "depth": TaskConfig(),
        "normals": TaskConfig(),
        "edge": TaskConfig(),
    }
    """Tasks that are trained, by name."""
    model: ModelConfig = ModelConfig()
    expansion: ExpansionConfig = ExpansionConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    baselines: BaselineRecipes = BaselineRecipes()
    plugins: tuple[str, ...] = ()
    """Python files of your own that bring decoders and other parts: docs/plugins.md. The fingerprint holds
    their content, not their place."""

    @field_validator("tasks")
    @classmethod
    def _absent_tasks_are_left_out(cls, tasks: dict[str, TaskConfig]) -> dict[str, TaskConfig]:
        return {name: task for name, task in tasks.items() if task.role != "absent"}

    @model_validator(mode="after")
    def _some_task_is_primary(self) -> Self:
        if not self.primary_tasks:
            raise ValueError(f"tasks must name at least one primary task, got {sorted(self.tasks) or 'none'}")
        for name in self.tasks:
            if not 1 <= len(name) <= LONGEST_NAME or "." in name:
                raise ValueError(
                    f"tasks: a name must have 1 to {LONGEST_NAME} letters and no dot, got '{name}'"
                )
        unknown = {
            task
            for layers in self.expansion.plan.groups.values()
            for groups in layers.values()
            for group in groups
            for task in group
        } - set(self.tasks)
        if unknown:
            raise ValueError(f"expansion.plan must name tasks of this config, got {sorted(unknown)}")
        return self

    @model_validator(mode="after")
    def _tasks_can_be_combined(self) -> Self:
        kind, count = self.train.combine.kind, len(self.tasks)
        if kind == "gradnorm" and count == 1:
            raise ValueError(
                "train.combine.kind must be sum for a single task, got gradnorm, which compares tasks. "
                "Name a second task or use sum"
            )
        schedule = self.schedule
        adapts = schedule.kind in ADAPTIVE and bool(self.auxiliary_tasks)
        if adapts and kind in WEIGH_LOSSES and not schedule.with_loss_weighting:
            raise ValueError(
                f"schedule.kind must be constant, diminish or switch beside train.combine.kind {kind}, "
                f"got {schedule.kind}: both adapt. Set schedule.with_loss_weighting: true to have both"
            )
        most = MOST_TASKS.get(kind)
        if most is not None and count > most:
            raise ValueError(
                f"tasks must be at most {most} for train.combine.kind {kind}, got {count}. "
                "Use pcgrad, imtl_g, aligned_mtl or nash_mtl"
            )
        return self

    @model_validator(mode="after")
    def _a_start_that_is_found_does_not_count_steps(self) -> Self:
        if self.expansion.start == "auto" and self.train.count_from == "expansion":
            raise ValueError(
                "train.count_from must be start with expansion.start auto, got expansion: the number of "
                "steps would follow from what a run measures"
            )
        return self

    @property
    def primary_tasks(self) -> tuple[str, ...]:
        """Names of the tasks that count in delta_m, in config order."""
        return tuple(name for name, task in self.tasks.items() if task.role == "primary")

    @property
    def auxiliary_tasks(self) -> tuple[str, ...]:
        """Names of the tasks that follow the schedule, in config order."""
        return tuple(name for name, task in self.tasks.items() if task.role == "auxiliary")

    @property
    def finetunes(self) -> bool:
        """Whether a part of the shared network stops training once the auxiliary tasks stop."""
        schedule = self.schedule
        stops = schedule.kind == "switch" or schedule.stop_at is not None or schedule.patience is not None
        return bool(self.auxiliary_tasks) and stops and schedule.finetune.fraction < 1.0

    @property
    def expansion_step(self) -> int | None:
        """Step before which the network grows, or ``None`` if it never does; with start auto the last one."""
        return next(reversed(self.growth_steps), None)

    @property
    def growth_steps(self) -> tuple[int, ...]:
        """Steps before which the network may grow, ascending: one, or several with start auto."""
        if self.expansion.policy == "none":
            return ()
        steps = {self.expansion.step_of(start, self.train.num_steps) for start in self.expansion.starts}
        return tuple(sorted(steps))

    def grown_at(self, step: int | None) -> RunConfig:
        """The run with the start that it found; the same run where the start was given."""
        if step is None or self.expansion.start != "auto":
            return self
        start = step / self.train.num_steps
        return self.model_copy(update={"expansion": self.expansion.model_copy(update={"start": start})})

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run, ``train.count_from`` taken into account."""
        extra = self.expansion_step or 0
        return self.train.num_steps + (extra if self.train.count_from == "expansion" else 0)

    def with_data_root(self, root: str | Path | None) -> RunConfig:
        """The same run on data in the folder ``root``; ``None`` leaves ``data.root`` as it is."""
        if root is None:
            return self
        place = str(expanded(root).absolute())  # for commands that are run elsewhere
        return self.model_copy(update={"data": self.data.model_copy(update={"root": place})})

    def unexpanded(self) -> RunConfig:
        """The same run, as long and with the same weights, for the network that never grows."""
        train = self.train.model_copy(update={"num_steps": self.total_steps, "count_from": "start"})
        return self.model_copy(update={"expansion": ExpansionConfig(policy="none"), "train": train})

    def for_single_task(self, task: str) -> RunConfig:
        """Config of the single-task baseline of ``task``: equally long, no growth, no schedule.

        The recipe is this run's own, except where ``baselines.recipes`` says otherwise.
        """
        values = self.unexpanded().model_dump()
        for path, value in self.baselines.recipes.get(task, {}).items():
            values = set_path(values, path, value)
        del values["train"]["combine"]
        values["tasks"] = {task: {**values["tasks"][task], "role": "primary"}}
        for name in ("schedule", "baselines"):
            del values[name]
        return RunConfig.model_validate(values)
