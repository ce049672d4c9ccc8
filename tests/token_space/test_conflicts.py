"""Conflict rates of given gradients, and measured conflicts against explicit loops."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from dtme_search.errors import TrainingError
from dtme_search.token_space import (
    CovarianceAccumulator,
    TokenSpace,
    conflict_rates,
    measure_conflicts,
    split_token_space,
)

TASKS = ("semseg", "depth", "edge")


def axes(*range_axes: int, size: int = 3) -> TokenSpace:
    """Subspaces along coordinate axes: the given ones span the range space."""
    identity = torch.eye(size, dtype=torch.float64)
    null_axes = [axis for axis in range(size) if axis not in range_axes]
    return TokenSpace(identity[:, list(range_axes)], identity[:, null_axes])


def random_space(size: int = 6) -> TokenSpace:
    tokens = torch.randn(100, size, generator=torch.Generator().manual_seed(7)) * torch.logspace(0, -3, size)
    return split_token_space(tokens.T @ tokens / 100, 100.0)


def test_hand_worked_three_dimensions():
    # Range = first two axes. Task 1 against 0: range dots 2, -1, 0, 1; null dots -1, 1, 0, 2.
    first = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 0.0, 2.0]])
    other = torch.tensor([[1.0, 1.0, -1.0], [-1.0, 5.0, 1.0], [3.0, 0.0, 0.0], [1.0, 9.0, 1.0]])
    gradients = torch.stack([first, other]).reshape(2, 2, 2, 3)
    range_rates, null_rates = conflict_rates(gradients, axes(0, 1))
    assert range_rates.tolist() == [[0.0, 0.5], [0.5, 0.0]]
    assert null_rates.tolist() == [[0.0, 0.5], [0.5, 0.0]]


def test_equal_gradients_never_conflict_and_opposite_ones_always():
    gradient = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    for rates in conflict_rates(torch.stack([gradient, gradient, -gradient]), random_space()):
        assert rates.tolist() == [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]


def test_subspaces_are_judged_apart():
    gradient = torch.ones(1, 1, 3)
    flipped = gradient * torch.tensor([1.0, 1.0, -1.0])
    range_rates, null_rates = conflict_rates(torch.stack([gradient, flipped]), axes(0, 1))
    assert range_rates[0, 1] == 0.0
    assert null_rates[0, 1] == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("exponent", [-33, 17])
def test_rates_are_symmetric_and_blind_to_positive_scaling(dtype, exponent):
    space = random_space()
    gradients = torch.randn(4, 3, 11, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    # A power of two keeps every bit of the mantissa, so even the smallest dot product keeps its sign.
    factors = 2.0 ** (exponent + torch.tensor([0.0, 3.0, -5.0, 1.0]).reshape(4, 1, 1, 1))
    for plain, scaled in zip(
        conflict_rates(gradients, space), conflict_rates(gradients * factors.to(dtype), space), strict=True
    ):
        assert torch.equal(plain, scaled)
        assert torch.equal(plain, plain.T)
        assert plain.dtype == torch.float64
        assert 0.0 < plain[0, 1] < 1.0


def test_rates_survive_tiny_gradients():
    gradients = torch.randn(2, 4, 50, 6, generator=torch.Generator().manual_seed(1))
    for plain, tiny in zip(
        conflict_rates(gradients, random_space()),
        conflict_rates(1e-10 * gradients, random_space()),
        strict=True,
    ):
        assert torch.allclose(plain, tiny, rtol=0, atol=0.01)


def test_zero_gradients_conflict_to_the_letter():
    gradients = torch.stack([torch.ones(1, 2, 3), torch.zeros(1, 2, 3)])
    for rates in conflict_rates(gradients, axes(0)):
        assert rates[0, 1] == 1.0


@pytest.mark.parametrize("range_axes", [(), (0, 1, 2)])
def test_an_empty_subspace_has_no_conflicts(range_axes):
    gradients = torch.stack([torch.ones(1, 2, 3), -torch.ones(1, 2, 3)])
    rates = conflict_rates(gradients, axes(*range_axes))
    assert [matrix[0, 1].item() for matrix in rates] == ([1.0, 0.0] if range_axes else [0.0, 1.0])


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 1, 5, 4)])
def test_gradients_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(tasks, images, tokens, 3\)"):
        conflict_rates(torch.zeros(shape), axes(0))


class ToyTransformer(nn.Module):
    """Three layers that mix tokens, and one linear decoder per task."""

    def __init__(self, tasks: tuple[str, ...] = TASKS, num_layers: int = 3, width: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(4, width)
        self.mix = nn.ModuleList([nn.Linear(7, 7) for _ in range(num_layers)])
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(num_layers)])
        self.decoders = nn.ModuleDict({task: nn.Linear(width, 2) for task in tasks})
        self.double()

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        tokens, layer_inputs = self.embed(images), []
        for mix, block in zip(self.mix, self.blocks, strict=True):
            layer_inputs.append(tokens)
            tokens = tokens + torch.tanh(block(mix(tokens.transpose(1, 2)).transpose(1, 2)))
        losses = {task: (decoder(tokens) - 1.0).square().mean() for task, decoder in self.decoders.items()}
        return losses, layer_inputs


@pytest.fixture
def images() -> Tensor:
    return torch.randn(8, 7, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def count_by_loops(model: ToyTransformer, images: Tensor, variance_ratio: float) -> tuple[Tensor, Tensor]:
    """Conflict counts (I, D, pairs), one image, layer, pair and token at a time."""
    _, layer_inputs = model(images)
    counts = torch.zeros(2, len(images), len(layer_inputs), 3, dtype=torch.int64)
    for layer, tokens in enumerate(layer_inputs):
        accumulator = CovarianceAccumulator()
        accumulator.update(tokens)
        space = split_token_space(accumulator.covariance(), variance_ratio)
        projections = [basis @ basis.T for basis in (space.range_basis, space.null_basis)]
        for image in range(len(images)):
            losses, inputs = model(images[image : image + 1])
            gradients = [
                torch.autograd.grad(loss, inputs[layer], retain_graph=True)[0][0] for loss in losses.values()
            ]
            for pair, (first, second) in enumerate(combinations(range(3), 2)):
                for token in range(tokens.shape[1]):
                    for subspace, projection in enumerate(projections):
                        dot = (projection @ gradients[first][token]) @ (projection @ gradients[second][token])
                        counts[subspace, image, layer, pair] += int(dot <= 0)
    return counts[0], counts[1]


def test_measured_counts_equal_explicit_loops(images):
    model = ToyTransformer()
    report = measure_conflicts(lambda: images.split(3), model, variance_ratio=10.0)
    range_counts, null_counts = count_by_loops(model, images, 10.0)
    assert torch.equal(report.range_counts, range_counts)
    assert torch.equal(report.null_counts, null_counts)
    assert (report.tasks, report.num_layers, report.num_images) == (TASKS, 3, 8)
    assert (report.num_positions, report.embed_dim, report.variance_ratio) == (7, 5, 10.0)
    assert all(0 < range_dim < 5 for range_dim in report.range_dims)


def test_any_batch_split_gives_the_same_report(images):
    model = ToyTransformer()
    whole, *others = (
        measure_conflicts(lambda size=size: images.split(size), model, variance_ratio=10.0)
        for size in (8, 3, 1)
    )
    assert all(other == whole for other in others)


def test_measured_rates_equal_conflict_rates(images):
    model = ToyTransformer()
    report = measure_conflicts(lambda: [images], model, variance_ratio=10.0)
    losses, layer_inputs = model(images)
    gradients = [torch.autograd.grad(loss, layer_inputs, retain_graph=True) for loss in losses.values()]
    for layer, tokens in enumerate(layer_inputs):
        accumulator = CovarianceAccumulator()
        accumulator.update(tokens)
        space = split_token_space(accumulator.covariance(), 10.0)
        range_rates, null_rates = conflict_rates(
            torch.stack([of_task[layer] for of_task in gradients]), space
        )
        assert torch.equal(report.range_rates[layer], range_rates)
        assert torch.equal(report.null_rates[layer], null_rates)


def test_the_model_is_left_as_it_was(images):
    model = ToyTransformer()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_conflicts(lambda: images.split(4), model, variance_ratio=10.0)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_it_measures_inside_no_grad_as_well(images):
    model = ToyTransformer()
    expected = measure_conflicts(lambda: [images], model, variance_ratio=10.0)
    with torch.no_grad():
        assert measure_conflicts(lambda: [images], model, variance_ratio=10.0) == expected


def test_one_task_has_no_conflicts(images):
    report = measure_conflicts(lambda: [images], ToyTransformer(("depth",)), variance_ratio=10.0)
    assert report.range_counts.shape == (8, 3, 0)
    assert report.null_scores.tolist() == [0.0, 0.0, 0.0]


def test_progress_counts_batches(images):
    calls: list[tuple[int, int]] = []
    measure_conflicts(
        lambda: images.split(3),
        ToyTransformer(),
        variance_ratio=10.0,
        on_progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_an_iterator_that_is_used_up_is_named(images):
    once = iter(images.split(4))
    with pytest.raises(ValueError, match="same batches twice, got 2 and then 0"):
        measure_conflicts(lambda: once, ToyTransformer(), variance_ratio=10.0)


def test_no_batches_are_refused():
    with pytest.raises(ValueError, match="at least one batch"):
        measure_conflicts(list, ToyTransformer(), variance_ratio=10.0)


def test_a_loss_that_is_not_finite_is_named(images):
    model = ToyTransformer()
    nn.init.constant_(model.decoders["depth"].bias, float("inf"))
    with pytest.raises(TrainingError, match="'depth' must be finite, got inf"):
        measure_conflicts(lambda: [images], model, variance_ratio=10.0)


def test_pairs_count_only_on_images_with_both_labels(images):
    """A task without a label has a gradient of zero, which would conflict with every other."""
    labelled = torch.ones(8, 3, dtype=torch.bool)
    labelled[2:, 2] = False  # edge in the first two images
    labelled[7, 1] = False  # the last image has semseg alone

    def of_batch(batch: Tensor) -> Tensor:
        places = [int((images == one).flatten(1).all(1).nonzero()) for one in batch]
        return labelled[places]

    model = ToyTransformer()
    whole = measure_conflicts(lambda: images.split(3), model, variance_ratio=10.0)
    report = measure_conflicts(lambda: images.split(3), model, variance_ratio=10.0, labelled=of_batch)
    assert report.num_images == 7
    for counts, all_counts in (
        (report.range_counts, whole.range_counts),
        (report.null_counts, whole.null_counts),
    ):
        assert torch.equal(counts[:, :, 0], all_counts[:7, :, 0])
        assert torch.equal(counts[:2, :, 1:], all_counts[:2, :, 1:])
        assert not counts[2:, :, 1:].any()
    rate = whole.range_counts[:2, 1, 2].sum() / (2 * 7)
    assert report.range_rates[1, 1, 2].item() == pytest.approx(rate.item())


def test_images_that_share_no_two_labels_cannot_be_compared(images):
    def alone(batch: Tensor) -> Tensor:
        return torch.tensor([True, False, False]).expand(len(batch), 3)

    with pytest.raises(TrainingError, match=r"8 images must have labels of two of the tasks semseg, depth"):
        measure_conflicts(lambda: [images], ToyTransformer(), variance_ratio=10.0, labelled=alone)
