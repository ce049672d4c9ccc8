"""Short of memory: a batch in parts has the loss of the whole, and a run that does not fit goes on so."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from runs import with_

from dtme_search.data import build_data
from dtme_search.errors import OutOfMemoryError
from dtme_search.models import MultiTaskViT
from dtme_search.tasks import TaskSpec
from dtme_search.training import Callbacks, Trainer, run_within_memory
from dtme_search.training.forward import TaskLosses
from dtme_search.training.losses import task_loss
from dtme_search.training.memory import is_out_of_memory, with_smaller_batches

LOSSES = [
    ("classes", "cross_entropy", 3),
    ("classes", "parts_cross_entropy", 3),
    ("distance", "l1", 1),
    ("values", "mse", 2),
    ("normals", "normals_l1", 3),
    ("mask", "balanced_bce", 1),
    ("mask", "batch_balanced_bce", 1),
]


@pytest.fixture(scope="module")
def config(request):
    from tiny import TINY

    from dtme_search.config import RunConfig

    return with_(RunConfig.model_validate(TINY), train__checkpoint_seconds=0.0)


@pytest.fixture(scope="module")
def data(config):
    return build_data(config.data, tuple(config.tasks), DEVICE)


@pytest.mark.parametrize(("kind", "loss", "channels"), LOSSES)
@pytest.mark.parametrize("parts", [2, 3])
def test_losses_of_the_parts_add_up_to_that_of_the_batch(kind, loss, channels, parts):
    """Although the parts have different numbers of valid and of positive pixels."""
    generator = torch.Generator().manual_seed(parts)
    spec = TaskSpec("t", channels, kind, loss, "rmse", "m", False)
    prediction = torch.randn(5, channels, 6, 7, generator=generator)
    if kind == "classes":
        target = torch.randint(0, 3, (5, 6, 7), generator=generator)
        target[1] = 0
    elif kind == "mask":
        target = (torch.rand(5, 1, 6, 7, generator=generator) > 0.8).float()
    else:
        target = torch.randn(5, channels, 6, 7, generator=generator)
    valid = torch.rand(5, 1, 6, 7, generator=generator) > 0.3
    valid[4] = False
    whole = task_loss(spec, prediction, target, valid, edge_positive_weight=0.9)
    pieces = zip(*(tensor.tensor_split(parts) for tensor in (prediction, target, valid)), strict=True)
    total = sum(task_loss(spec, *piece, edge_positive_weight=0.9, whole=(target, valid)) for piece in pieces)
    torch.testing.assert_close(total, whole)


def test_gradients_of_the_parts_add_up_to_those_of_the_batch(config, data):
    """In evaluation mode, where images of a batch do not meet in batch norm."""
    trainer = Trainer.of_config(config, data)
    model = trainer.model.eval()
    batch = next(iter(data.train_batches(5, seed=1)))
    losses = TaskLosses(config.train, model, data)
    found = []
    for parts in (1, 2, 9):
        model.zero_grad()
        of_tasks = losses.backward(batch, {"semseg": 1.0, "depth": 0.5}, parts)
        found.append((of_tasks, [p.grad.clone() for p in model.backbone.parameters() if p.grad is not None]))
    (whole, gradients), *others = found
    assert whole.keys() == {"semseg", "depth"}
    for of_tasks, of_parts in others:
        torch.testing.assert_close(of_tasks, whole)
        assert len(of_parts) == len(gradients) > 10
        torch.testing.assert_close(of_parts, gradients, atol=1e-6, rtol=1e-4)


def test_a_batch_is_split_into_parts_that_hold_all_of_it(data):
    batch = next(iter(data.train_batches(5, seed=1)))
    for count, sizes in ((2, [3, 2]), (5, [1] * 5), (7, [1] * 5)):
        parts = batch.split(count)
        assert [len(part.images) for part in parts] == sizes
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part.indices for part in parts]), batch.indices)
        for task in batch.targets:
            assert torch.equal(torch.cat([part.targets[task] for part in parts]), batch.targets[task])
            assert torch.equal(torch.cat([part.valid[task] for part in parts]), batch.valid[task])


class Memory:
    """A device on which more than ``most`` images at once do not fit from a call on."""

    def __init__(self, most: int, after: int = 0) -> None:
        self.most, self.after, self.calls = most, after, 0
        self._forward = MultiTaskViT.forward_with_auxiliary

    def __call__(self, model, images, *arguments):
        self.calls += model.training
        if model.training and self.calls > self.after and len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self._forward(model, images, *arguments)

    def install(self, monkeypatch) -> None:
        memory = self
        monkeypatch.setattr(MultiTaskViT, "forward_with_auxiliary", lambda *arguments: memory(*arguments))


def run(config, data, folder=None, told=None):
    callbacks = Callbacks()
    return run_within_memory(
        lambda parts: Trainer.of_config(config, data, folder=folder, callbacks=callbacks, parts=parts),
        (told if told is not None else []).append,
    )


@pytest.mark.slow
def test_a_run_that_does_not_fit_goes_on_from_its_checkpoint_in_two_parts(
    config, data, tmp_path, monkeypatch
):
    undisturbed = Trainer.of_config(config, data).run()
    Memory(most=2, after=6).install(monkeypatch)
    told: list[str] = []
    trainer, result = run(config, data, tmp_path, told)
    assert (result.parts, undisturbed.parts) == (2, 1) and trainer.state.step == 10
    assert told == [
        "out of memory at step 6 (CUDA out of memory. Tried to allocate 2.00 GiB); continuing with each "
        "batch of 4 in 2 parts"
    ]
    first, last = result.evaluations
    assert first == undisturbed.evaluations[0], "up to there nothing was in parts"
    assert last.step == 10 and last.metrics != undisturbed.evaluations[1].metrics

    trainer = Trainer.of_config(config, data, folder=tmp_path)
    assert trainer.run().parts == 2, "a resumed run knows it"


def test_growth_and_measuring_fit_as_well(config, data, monkeypatch):
    grows = with_(config, expansion__policy="conflict", expansion__start=0.5)
    Memory(most=2).install(monkeypatch)
    _, result = run(grows, data)
    assert result.parts == 2 and result.report is not None and result.step_cost_ratio > 0


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "how"), [(4, "batches of 4 in 2 parts"), (1, "batches of 1 ")])
def test_what_never_fits_fails_with_advice(config, data, monkeypatch, batch, how):
    Memory(most=0).install(monkeypatch)
    with pytest.raises(
        OutOfMemoryError, match=rf"^step 0: the memory of cpu .*{how}.*Lower train.batch_size"
    ):
        run(with_(config, train__batch_size=batch), data)


def test_other_errors_are_not_tried_again(config, data, monkeypatch):
    calls = []

    def fail(*_):
        calls.append(1)
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(MultiTaskViT, "forward_with_auxiliary", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        run(config, data)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("x"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected


@pytest.mark.slow
def test_an_evaluation_that_does_not_fit_is_done_with_smaller_batches():
    tried = []

    def work(size):
        tried.append(size)
        if size > 2:
            raise torch.OutOfMemoryError("no room")
        return size

    assert with_smaller_batches(work, 13, DEVICE) == 1
    assert tried == [13, 6, 3, 1]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), RuntimeError("shapes")])
def test_what_smaller_batches_do_not_mend_is_raised(error):
    def work(size):
        raise error

    with pytest.raises(type(error), match=str(error)):
        with_smaller_batches(work, 1, DEVICE)
