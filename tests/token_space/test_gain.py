"""What growth could gain: by hand, against gradients of a real split, and what cannot change it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dtme_search.token_space import measure_conflicts
from dtme_search.token_space.gain import split_gain

TASKS = ("semseg", "depth", "edge")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_by_hand_for_two_tasks_and_three_images():
    # Apart by 2, 4 and 0: own gradients are half of it, +1, +2, 0 and the opposite.
    gradients = torch.tensor([[[2.0], [5.0], [1.0]], [[0.0], [1.0], [1.0]]])
    gain, error, z = split_gain(gradients)
    # Products of pairs of images, both tasks: 1 * 2 * 2 = 4, 0, 0, each counted twice, over 3 * 2 pairs.
    assert gain == pytest.approx(8 / 6, rel=1e-5)
    # Without the first image 0, without the second 0, without the third 8 / 2.
    assert error == pytest.approx(math.sqrt(2 / 3 * (2 * (4 / 3) ** 2 + (8 / 3) ** 2)), rel=1e-5)
    assert z == pytest.approx(8 / math.sqrt(2 * 2 * 4**2), rel=1e-5)


def test_noise_alone_has_no_gain_on_average_and_a_normal_z():
    found = torch.tensor([split_gain(draw(3, 40, 8, seed=seed)) for seed in range(300)])
    gains, errors, z = found.T
    assert abs(gains.mean()) < 3 * gains.std() / math.sqrt(300)
    assert abs(z.mean()) < 0.2
    assert 0.85 < z.std() < 1.15
    assert 0.6 < errors.mean() / gains.std() < 1.7


def test_a_part_that_all_tasks_share_does_not_count():
    gradients = draw(3, 10, 4)
    moved = gradients + 7 * draw(1, 10, 4, seed=1)
    assert split_gain(moved) == pytest.approx(split_gain(gradients), rel=1e-5)


def test_two_images_tell_nothing():
    assert all(math.isnan(value) for value in split_gain(draw(2, 2, 3)))


class Attending(nn.Module):
    """Two layers that mix tokens before an output map; an affine map per task may be built in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.value, self.proj = (nn.ModuleList([nn.Linear(5, 5) for _ in range(2)]) for _ in range(2))
        self.decoders = nn.ModuleDict({task: nn.Linear(5, 2) for task in TASKS})
        self.weight = nn.Parameter(torch.ones(3, 5))
        self.bias = nn.Parameter(torch.zeros(3, 5))
        self.double()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        tokens, inputs, self.seen = images.clone().requires_grad_(), [], []
        for value, proj in zip(self.value, self.proj, strict=True):
            inputs.append(tokens)
            self.seen.append(torch.softmax(tokens @ tokens.transpose(1, 2), -1) @ value(tokens))
            tokens = tokens + proj(self.seen[-1])
        return {task: (self.decoders[task](tokens) - 1).square().mean() for task in TASKS}, inputs

    def split_losses(self, image: Tensor, layer: int) -> list[Tensor]:
        """Loss of each task with its own W and b before a layer."""
        losses = []
        for number, task in enumerate(TASKS):
            tokens = image
            for place, (value, proj) in enumerate(zip(self.value, self.proj, strict=True)):
                if place == layer:
                    tokens = tokens * self.weight[number] + self.bias[number]
                mixed = torch.softmax(tokens @ tokens.transpose(1, 2), -1) @ value(tokens)
                tokens = tokens + proj(mixed)
            losses.append((self.decoders[task](tokens) - 1).square().mean())
        return losses


def test_the_gradients_are_those_of_the_maps_that_modulation_would_build():
    model, images = Attending(), draw(9, 6, 5)
    report = measure_conflicts(
        lambda: images.split(4), model, variance_ratio=10.0, attended=lambda: model.seen
    )
    losses = {task: loss.item() for task, loss in model(images)[0].items()}
    for layer in range(2):
        rows = []
        for number, task in enumerate(TASKS):
            of_images = []
            for image in images.split(1):
                loss = model.split_losses(image, layer)[number]
                weight, bias = torch.autograd.grad(loss, [model.weight, model.bias])
                of_images.append(torch.cat((weight[number], bias[number])) / losses[task])
            rows.append(torch.stack(of_images))
        expected = split_gain(torch.stack(rows))
        assert report.gains[:, 0, layer].tolist() == pytest.approx(expected, rel=1e-4)
    assert report.gains.isfinite().all()
    assert "modulate" in report.table()
    assert type(report).from_json(report.to_json()) == report


def test_layers_that_do_not_show_their_attention_have_no_gain_of_expansion():
    model = Attending()
    report = measure_conflicts(lambda: [draw(5, 6, 5)], model, variance_ratio=10.0)
    assert report.gains[:, 0].isfinite().all()
    assert report.gains[:, 1].isnan().all()
