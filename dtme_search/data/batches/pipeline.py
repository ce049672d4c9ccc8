"""From a data set to batches: all that training needs to know about data."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dtme_search.config import DataConfig, fingerprint
from dtme_search.data.base import Batch, Dataset, Split
from dtme_search.data.batches.augment import Draws, prepare_batch
from dtme_search.data.batches.order import Labelled, training_order
from dtme_search.data.batches.own_size import OwnLabels, read_own_labels
from dtme_search.data.batches.randomness import Purpose, make_generator
from dtme_search.data.batches.resizing import fitted_size
from dtme_search.data.batches.split_reader import SplitReader, even_choice
from dtme_search.data.batches.storage import Storage, fits_on_device
from dtme_search.data.batches.tensors import bytes_per_sample
from dtme_search.data.batches.transfer import SideStream
from dtme_search.data.registry import build_dataset
from dtme_search.data.splits import Splits, split_ids
from dtme_search.errors import ConfigError, nearest
from dtme_search.tasks import TaskSpec

CROP_TASK = "semseg"
"""If the data set has its labels, they always judge crops, so that single-task and multi-task runs see the
same crops."""

_MEANS_BATCH = 16
_AVERAGED_IMAGES = 1024
_PROBED_SAMPLES = 8
_SMALLEST_COVER = 0.5


class TaskData:
    """Batches of one data set for the tasks of one run.

    Attributes:
        specs: The tasks, in the given order.
        splits: Ids per split.
        fingerprint: Changes with the content of the data set or with any split.
        image_size: Height and width of every tensor.
        device: Where batches are.
    """

    def __init__(
        self,
        specs: Mapping[str, TaskSpec],
        splits: Splits,
        fingerprint: str,
        config: DataConfig,
        *,
        device: torch.device,
        open_split: Callable[[Split], Storage],
        crop_task: str | None,
        source: Dataset,
        labelled: Labelled,
    ) -> None:
        self.specs = dict(specs)
        self.splits = splits
        self.fingerprint = fingerprint
        self.image_size = config.image_size
        self.device = device
        self._config = config
        self._open_split = open_split
        self._crop_task = crop_task
        self._source = source
        self._known_means: dict[str, Tensor] = {}
        self._side_stream = SideStream(device)
        # For the whole data set, so that runs with one task and with all see the same batches.
        self._labelled = labelled

    @property
    def scoring_split(self) -> Split:
        """Where a run is measured: on the hold-out or, in a final training without one, on the test split."""
        return "holdout" if self.splits.holdout else "test"

    def for_tasks(self, tasks: Sequence[str]) -> TaskData:
        """The same data, held in memory only once, for some of the tasks; batch t keeps its images and crops.

        Raises:
            ValueError: If a task is not among ``specs``.
        """
        missing = [task for task in tasks if task not in self.specs]
        if missing:
            raise ValueError(f"tasks must be among {list(self.specs)}, got {missing}")
        return self.with_specs({task: self.specs[task] for task in tasks})

    def with_specs(self, specs: Mapping[str, TaskSpec]) -> TaskData:
        """The same data, held in memory only once, for tasks with other losses and metrics."""
        same = copy.copy(self)
        same.specs = dict(specs)
        return same

    def train_batches(self, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Batch]:
        """Endless augmented training batches; batch t depends only on ``(seed, t)`` and its size.

        Args:
            batch_size: Images per batch, always full: an epoch leaves out the remainder, and a set smaller
                than a batch is repeated to fill it. If labels of a task are missing, images are exchanged
                until each batch has one, see ``spread_labels``.
            seed: Seed of order and augmentation.
            start_step: Step of the first batch; the batches are those that a run from step 0 gets from there
                on.
        """
        _check_positive(batch_size=batch_size)
        return self._side_stream.ahead(self._augmented(batch_size, seed, start_step))

    def eval_batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """A split once, in order, without augmentation: padded symmetrically and normalised.

        The last batch may be smaller. Files of the test split are read only here.
        """
        _check_positive(batch_size=batch_size)
        return self._plain(split, range(len(self.splits.ids(split))), batch_size)

    @property
    def scores_at_own_size(self) -> bool:
        """Whether metrics are measured at the size of the labels instead of the tensors."""
        wanted = self._config.score_at
        return wanted == "label" or (wanted == "auto" and not self.splits.holdout)

    def own_labels(self, split: Split) -> Iterator[OwnLabels]:
        """The labels of a split at their own size, image by image, in the order of ``eval_batches``."""
        ids = self.splits.ids(split)
        return read_own_labels(self._source, ids, self.specs, self.image_size, self.device)

    def analysis_batches(self, num_images: int, batch_size: int, seed: int) -> Iterator[Batch]:
        """Different training images, chosen by ``seed``, without augmentation; all if there are fewer."""
        _check_positive(num_images=num_images, batch_size=batch_size)
        return self.chosen_batches(self.analysis_order(num_images, seed), batch_size)

    def chosen_batches(self, indices: Sequence[int], batch_size: int) -> Iterator[Batch]:
        """Training images at these positions, in this order, without augmentation."""
        return self._plain("train", indices, batch_size)

    def analysis_order(self, num_images: int, seed: int) -> list[int]:
        """Positions of the training images of ``analysis_batches``.

        Images with labels of fewer than two tasks come last, because there is nothing to compare on them.
        """
        generator = make_generator("cpu", seed, Purpose.ANALYSIS)
        shuffled = torch.randperm(len(self.splits.train), generator=generator).tolist()
        partly = [self._labelled[task] for task in self.specs if task in self._labelled]
        if partly:
            num_labels = len(self.specs) - len(partly) + np.sum(partly, axis=0)
            shuffled.sort(key=lambda index: -min(2, num_labels[index]))
        return shuffled[:num_images]

    def average_batches(self, batch_size: int) -> Iterator[Batch]:
        """The training images used for averages, without augmentation.

        All of them or, if there are more than 1,024, an even selection of about that many: an average needs
        no more, and reading all of Taskonomy takes hours. For tasks with missing labels, that many more that
        have them.
        """
        _check_positive(batch_size=batch_size)
        chosen = set(even_choice(len(self.splits.train), _AVERAGED_IMAGES))
        for there in self._labelled.values():
            those = np.flatnonzero(there).tolist()
            chosen |= {those[place] for place in even_choice(len(those), _AVERAGED_IMAGES)}
        return self._plain("train", sorted(chosen), batch_size)

    def target_means(self) -> dict[str, Tensor]:
        """Mean of the valid targets of ``average_batches`` per channel, float32 (C,) on the CPU.

        Sums are float64, and computed once for all that share these data.
        Only kinds distance, normals and values have one. Without a single valid pixel it is 0.
        """
        kinds = ("distance", "normals", "values")
        wanted = [task for task, spec in self.specs.items() if spec.kind in kinds]
        tasks = [task for task in wanted if task not in self._known_means]
        if tasks:
            self._known_means |= self._average_targets(tasks)
        return {task: self._known_means[task] for task in wanted}

    def _average_targets(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        def zeros(length: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(length, dtype=dtype, device=self.device)

        # On the device, so that the CPU waits for it once and not at every batch.
        sums = {task: zeros(self.specs[task].channels, torch.float64) for task in tasks}
        counts = {task: zeros(1, torch.int64) for task in tasks}
        for batch in self.for_tasks(tasks).average_batches(_MEANS_BATCH):
            for task in tasks:
                # Targets are 0 where they are not valid.
                sums[task] += batch.targets[task].sum((0, 2, 3), dtype=torch.float64)
                counts[task] += batch.valid[task].sum()
        return {task: (sums[task] / counts[task].clamp(min=1)).float().cpu() for task in tasks}

    def _augmented(self, batch_size: int, seed: int, start_step: int) -> Iterator[Batch]:
        tasks = list(self.specs)
        if self._crop_task is not None and self._crop_task not in tasks:
            tasks.append(self._crop_task)
        order = functools.partial(
            training_order,
            len(self.splits.train),
            batch_size,
            seed,
            start_step=start_step,
            labelled=self._labelled,
        )
        # A copy, because the storage may read ahead in it.
        raw_batches = self._open_split("train").batches(order(), tasks)
        for step, chosen, raw in zip(itertools.count(start_step), order(), raw_batches, strict=False):
            generator = make_generator("cpu", seed, Purpose.AUGMENT, step)
            draws = Draws.random(self._config.augment, batch_size, generator)
            yield prepare_batch(raw, torch.tensor(chosen), draws, self.specs, self._config, self._crop_task)

    def _plain(self, split: Split, indices: Sequence[int], batch_size: int) -> Iterator[Batch]:
        return self._side_stream.ahead(self._unaugmented(split, indices, batch_size))

    def _unaugmented(self, split: Split, indices: Sequence[int], batch_size: int) -> Iterator[Batch]:
        chunks = [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]
        if not chunks:
            return
        raw_batches = self._open_split(split).batches(chunks, list(self.specs))
        for chosen, raw in zip(chunks, raw_batches, strict=True):
            draws = Draws.neutral(len(chosen))
            yield prepare_batch(raw, torch.tensor(chosen), draws, self.specs, self._config)


def build_data(
    config: DataConfig,
    tasks: Sequence[str],
    device: torch.device,
    *,
    final: bool = False,
    dataset: Dataset | None = None,
    read: Sequence[Split] = ("train", "holdout"),
    on_progress: Callable[[int, int], None] | None = None,
) -> TaskData:
    """Open the data of a run; with tensors on the device, read the training and hold-out images.

    Args:
        config: The data section of the run.
        tasks: Names of the tasks, in the order of the run.
        device: Where batches are created.
        final: Train on all training ids, without a hold-out.
        dataset: Replaces the data set that ``data.name`` names.
        read: Splits to read now; the others are read at first use. Behind a loader they are decoded once to
            find broken files; of more than 20,000 images an even selection of about that many.
        on_progress: Called with the number of images read and in total, from this thread.

    Raises:
        ConfigError: If the data set or a task is unknown, if no hold-out can be taken, or if images are so
            small that padding would fill most of ``data.image_size``.
        DataError: From the data set, for a missing or broken file, or if a task has nothing to measure.
    """
    if not tasks:
        raise ValueError("tasks must name at least one task, got none")
    source = build_dataset(config) if dataset is None else dataset
    specs = _choose_specs(source.tasks, tasks, config.name)
    splits = split_ids(source, config, final)
    _check_cover(source, splits.train, config.image_size)

    crop_task = CROP_TASK if _has_crop_rule(source.tasks, config) else None
    stored = specs if crop_task is None else {**specs, crop_task: source.tasks[crop_task]}
    # The data a final run is measured on are identified by content; a search must not open them.
    tested = getattr(source, "test_fingerprint", None) if final else None
    contents = [source.fingerprint, *([] if tested is None else [tested])]
    identity = fingerprint(*contents, splits.train, splits.holdout, splits.test)
    reading = SplitReader(source, specs, stored, config, splits, now=tuple(read), on_progress=on_progress)
    num_bytes = (len(splits.train) + len(splits.holdout)) * bytes_per_sample(stored, config.image_size)
    if fits_on_device(num_bytes, config, device):
        open_split = reading.to_device(device)
    else:
        open_split = reading.behind_a_loader(device, identity)
    find = getattr(source, "labelled", None)
    labelled = None if find is None else find(splits.train)
    return TaskData(
        specs,
        splits,
        identity,
        config,
        device=device,
        open_split=open_split,
        crop_task=crop_task,
        source=source,
        labelled=labelled or {},
    )


def _choose_specs(offered: Mapping[str, TaskSpec], tasks: Sequence[str], name: str) -> dict[str, TaskSpec]:
    for task in tasks:
        if task not in offered:
            raise ConfigError(f"tasks.{task}: data set '{name}' has no such task.{nearest(task, offered)}")
    return {task: offered[task] for task in tasks}


def _has_crop_rule(offered: Mapping[str, TaskSpec], config: DataConfig) -> bool:
    can_judge = CROP_TASK in offered and offered[CROP_TASK].kind == "classes"
    return can_judge and config.augment.crop_max_class_fraction < 1 and config.augment.crop_tries > 1


def _check_cover(dataset: Dataset, ids: Sequence[str], image_size: tuple[int, int]) -> None:
    """Refuse a size at which even the largest of a few images would leave most of the tensor as padding."""
    sizes = [dataset.read(sample_id, ()).image.shape[:2] for sample_id in ids[:_PROBED_SAMPLES]]
    fitted = [fitted_size((height, width), image_size) for height, width in sizes]
    height, width = max(fitted, key=lambda size: size[0] * size[1])
    if height * width < _SMALLEST_COVER * image_size[0] * image_size[1]:
        raise ConfigError(
            f"data.image_size must suit the images, got {list(image_size)} for images of {[height, width]}: "
            f"padding would fill {1 - height * width / (image_size[0] * image_size[1]):.0%} of every tensor. "
            "Lower it."
        )


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
