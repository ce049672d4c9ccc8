"""Augmentation against hand-worked cases and against plain resizing, slicing and padding."""

from __future__ import annotations

import colorsys
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_dataset import TASKS, FakeDataset
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dtme_search.config import AugmentConfig, DataConfig
from dtme_search.data.batches.augment import Draws, prepare_batch
from dtme_search.data.batches.photometric import ColorChanges, distort_colors
from dtme_search.data.batches.randomness import make_generator
from dtme_search.data.batches.tensors import read_sample, stack_samples

CPU = torch.device("cpu")


def raw_samples(image_size, size=None, count=2):
    dataset = FakeDataset(size=size or image_size)
    samples = [read_sample(dataset, sample_id, TASKS, image_size) for sample_id in dataset.ids("train")]
    return stack_samples(samples[:count], count, TASKS, image_size, CPU)


def config(image_size, **augment):
    return DataConfig(image_size=image_size, normalize="half", augment=AugmentConfig(**augment))


def prepare(raw, image_size, crop_task=None, **changes):
    """A batch whose draws are neutral but for ``changes``, given once for all samples."""
    count = len(raw)
    neutral = Draws.neutral(count)
    repeated = {
        name: torch.as_tensor(value, dtype=getattr(neutral, name).dtype).expand(
            count, *([-1, -1] if name == "crops" else [])
        )
        for name, value in changes.items()
    }
    draws = dataclasses.replace(neutral, **repeated)
    return prepare_batch(raw, torch.arange(count), draws, TASKS, config(image_size), crop_task)


def test_neutral_draws_reproduce_the_input_bit_for_bit():
    raw = raw_samples((12, 20))
    batch = prepare(raw, (12, 20))
    assert torch.equal(batch.images, (raw.images.float() - 127.5) / 127.5)
    for task in TASKS:
        assert torch.equal(batch.valid[task], raw.valid[task])
        label = raw.labels[task].float()
        assert torch.equal(batch.targets[task], label[:, 0].long() if task == "semseg" else label)


def test_targets_have_the_promised_types():
    batch = prepare(raw_samples((12, 20)), (12, 20), scale=0.7)
    assert batch.images.dtype == torch.float32
    assert batch.targets["semseg"].shape == (2, 12, 20)
    assert batch.targets["semseg"].dtype == torch.int64
    for task in ("depth", "normals", "edge", "albedo"):
        assert batch.targets[task].shape == (2, TASKS[task].channels, 12, 20)
        assert batch.targets[task].dtype == torch.float32
    for task in TASKS:
        assert batch.valid[task].shape == (2, 1, 12, 20)
        assert batch.valid[task].dtype == torch.bool


def test_imagenet_statistics_are_the_default():
    raw = raw_samples((4, 4), count=1)
    batch = prepare_batch(raw, torch.arange(1), Draws.neutral(1), {}, DataConfig(image_size=(4, 4)))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    torch.testing.assert_close(batch.images, (raw.images / 255 - mean) / std)


def test_a_mirror_turns_everything_and_negates_x_of_normals():
    raw = raw_samples((12, 20))
    plain, mirrored = prepare(raw, (12, 20)), prepare(raw, (12, 20), flip=True)
    assert torch.equal(mirrored.images.flip(-1), plain.images)
    for task in TASKS:
        assert torch.equal(mirrored.valid[task].flip(-1), plain.valid[task])
        back = mirrored.targets[task].flip(-1)
        if task == "normals":
            back = back * torch.tensor([-1.0, 1.0, 1.0]).view(1, 3, 1, 1)
        assert torch.equal(back, plain.targets[task])


def test_zoom_by_two_by_hand():
    raw = raw_samples((2, 2), count=1)
    depth = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    raw.labels["depth"][0, 0] = depth
    raw.valid["depth"][:] = True
    # 4 x 4 after the zoom, so offsets 0, 1, 2 are free: 0.5 is the middle one.
    batch = prepare(raw, (2, 2), scale=2.0, crops=[[[0.5, 0.5]]])
    assert torch.equal(batch.targets["depth"][0, 0], depth / 2)
    first, last = (
        prepare(raw, (2, 2), scale=2.0, crops=[[[0.0, 0.0]]]),
        prepare(raw, (2, 2), scale=2.0, crops=[[[0.99, 0.99]]]),
    )
    assert torch.equal(first.targets["depth"][0, 0], torch.full((2, 2), 0.5))
    assert torch.equal(last.targets["depth"][0, 0], torch.full((2, 2), 2.0))


def plain_augmentation(source, size, scale, offset, flip, image_size, mode):
    """Zoom, crop, mirror, pad, one after the other, of one (C, H, W) tensor."""
    zoomed_size = [int(size[0] * scale), int(size[1] * scale)]
    options = {"align_corners": False} if mode == "bilinear" else {}
    zoomed = F.interpolate(
        source[None, :, : size[0], : size[1]].double(), size=zoomed_size, mode=mode, **options
    )[0]
    crop = zoomed[:, offset[0] :, offset[1] :][:, : image_size[0], : image_size[1]]
    if flip:
        crop = crop.flip(-1)
    down, across = image_size[0] - crop.shape[1], image_size[1] - crop.shape[2]
    return F.pad(crop, (across // 2, across - across // 2, down // 2, down - down // 2))


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(0.3, 3.0),
    place=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
    flip=st.booleans(),
    size=st.tuples(st.integers(5, 12), st.integers(7, 20)),
)
def test_one_look_up_equals_zoom_crop_mirror_and_pad(scale, place, flip, size):
    # Where the centre of a pixel falls between two of the source, either of them is the nearest.
    zoomed = [int(length * scale) for length in size]
    assume(all((2 * j + 1) * n % (2 * z) for n, z in zip(size, zoomed, strict=True) for j in range(z)))
    image_size = (12, 20)
    raw = raw_samples(image_size, size=size)
    batch = prepare(raw, image_size, scale=scale, crops=[[place]], flip=flip)
    offset = [
        int(fraction * (max(0, int(length * scale) - limit) + 1))
        for fraction, length, limit in zip(place, size, image_size, strict=True)
    ]
    for index in range(len(raw)):

        def plain(source, mode="nearest-exact", index=index):
            return plain_augmentation(source[index], size, scale, offset, flip, image_size, mode)

        inside = plain(torch.ones_like(raw.images[:, :1]))
        image = plain(raw.images, "bilinear")
        expected = (image / 255 - 0.5) / 0.5 * inside
        torch.testing.assert_close(batch.images[index].double(), expected, atol=1e-5, rtol=0)
        for task in TASKS:
            assert torch.equal(batch.valid[task][index].double(), plain(raw.valid[task]))
        assert torch.equal(batch.targets["semseg"][index].double(), plain(raw.labels["semseg"])[0])
        assert torch.equal(batch.targets["edge"][index].double(), plain(raw.labels["edge"]))
        assert torch.equal(batch.targets["albedo"][index].double(), plain(raw.labels["albedo"]))
        torch.testing.assert_close(
            batch.targets["depth"][index].double() * scale, plain(raw.labels["depth"]), atol=1e-6, rtol=1e-6
        )
        normals = plain(raw.labels["normals"])
        assert torch.equal(batch.targets["normals"][index, 0].double(), -normals[0] if flip else normals[0])
        assert torch.equal(batch.targets["normals"][index, 1:].double(), normals[1:])


def test_padding_is_symmetric_floor_first_invalid_and_of_mean_colour():
    raw = raw_samples((12, 20))
    for valid in raw.valid.values():
        valid[:] = True
    batch = prepare(raw, (12, 20), scale=0.75)  # 9 x 15: 1 row above, 2 below; 2 columns left, 3 right
    inside = torch.zeros(12, 20, dtype=torch.bool)
    inside[1:10, 2:17] = True
    for task in TASKS:
        assert torch.equal(batch.valid[task], inside.expand(2, 1, 12, 20))
        assert not batch.targets[task][..., ~inside].any()
    assert not batch.images[..., ~inside].any()
    assert torch.isfinite(batch.images).all()


@pytest.fixture
def half_dominated():
    """8 x 16: floor alone on the left half, four classes in turn on the right half."""
    raw = raw_samples((8, 16), count=1)
    labels = torch.zeros(8, 16, dtype=torch.uint8)
    labels[:, 8:] = torch.arange(4, dtype=torch.uint8).repeat(2)
    raw.labels["semseg"][0, 0] = labels
    raw.valid["semseg"][:] = True
    return raw


LEFT, MIDDLE, RIGHT = [0.0, 0.0], [0.0, 0.5], [0.0, 0.99]


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([LEFT, LEFT, RIGHT, LEFT], RIGHT),  # the first that passes
        ([RIGHT, LEFT], RIGHT),
        ([LEFT, LEFT], LEFT),  # none passes: the last
        ([LEFT, MIDDLE, RIGHT], MIDDLE),  # 5/8 floor passes
    ],
)
def test_a_crop_with_a_dominant_class_is_redrawn(half_dominated, candidates, expected):
    chosen = prepare(half_dominated, (4, 8), crop_task="semseg", crops=[candidates])
    wanted = prepare(half_dominated, (4, 8), crops=[[expected]])
    assert torch.equal(chosen.images, wanted.images)
    assert torch.equal(chosen.targets["semseg"], wanted.targets["semseg"])


def test_unlabelled_pixels_do_not_judge_a_crop(half_dominated):
    half_dominated.valid["semseg"][..., 8:] = False
    half_dominated.valid["semseg"][..., 12] = True
    # On the right only class 0 (column 12) is labelled; in the middle (columns 4 to 11) only floor.
    chosen = prepare(half_dominated, (4, 8), crop_task="semseg", crops=[[RIGHT, MIDDLE, LEFT]])
    assert torch.equal(chosen.images, prepare(half_dominated, (4, 8), crops=[[LEFT]]).images)


def test_the_crop_rule_holds_for_random_crops(half_dominated):
    raw = stack_samples([half_dominated] * 16, 16, TASKS, (8, 16), CPU)
    rule = config((4, 8), scale=(1.0, 1.0), flip=0.0, photometric=0.0, crop_tries=30)
    draws = Draws.random(rule.augment, 16, make_generator("cpu", 3))
    largest = []
    for crop_task in ("semseg", None):
        batch = prepare_batch(raw, torch.arange(16), draws, TASKS, rule, crop_task)
        shares = F.one_hot(batch.targets["semseg"], 4).float().mean((1, 2))
        largest.append(shares.amax(1))
    assert (largest[0] < 0.75).all()
    assert (largest[1] >= 0.75).any()


def test_draws_differ_between_samples_and_repeat_with_the_generator():
    settings = AugmentConfig()
    first = Draws.random(settings, 64, make_generator("cpu", 5, 1))
    again = Draws.random(settings, 64, make_generator("cpu", 5, 1))
    other = Draws.random(settings, 64, make_generator("cpu", 5, 2))
    for field in dataclasses.fields(Draws):
        values = getattr(first, field.name)
        assert torch.equal(values, getattr(again, field.name))
        assert not torch.equal(values, getattr(other, field.name))
        assert len(values.unique(dim=0)) > 1


def test_draws_keep_to_their_ranges_and_probabilities():
    draws = Draws.random(AugmentConfig(scale=(0.8, 1.3)), 4000, make_generator("cpu", 0))
    assert 0.8 <= draws.scale.min() < 0.81
    assert 1.29 < draws.scale.max() <= 1.3
    assert draws.crops.shape == (4000, 10, 2)
    assert draws.crops.min() >= 0
    assert draws.crops.max() < 1
    assert set(draws.hue.tolist()) == {2.0 * step for step in range(-18, 18)}
    assert draws.brightness.abs().max() <= 32
    for chosen in (draws.flip, draws.brightness != 0, draws.contrast != 1, draws.saturation != 1):
        assert 0.46 < chosen.float().mean() < 0.54
    still = Draws.random(AugmentConfig(flip=0.0, photometric=0.0), 100, make_generator("cpu", 0))
    neutral = Draws.neutral(100)
    for name in ("flip", "brightness", "contrast", "saturation", "hue"):
        assert torch.equal(getattr(still, name), getattr(neutral, name))


def colors(pixel, **changes):
    """``pixel`` (three values 0..255) after the distortions of ``changes``."""
    draws = dataclasses.replace(
        Draws.neutral(1), **{name: torch.tensor([value]) for name, value in changes.items()}
    )
    image = torch.tensor(pixel, dtype=torch.float32).view(1, 3, 1, 1)
    return distort_colors(image, ColorChanges.of(draws)).flatten().tolist()


def test_brightness_and_contrast_by_hand():
    assert colors([10, 100, 250], brightness=20.0) == [30, 120, 255]
    assert colors([10, 100, 250], brightness=-20.0) == [0, 80, 230]
    assert colors([10, 100, 250], contrast=1.5) == [15, 150, 255]
    # 1.5 before: clipped to (255, 225, 150), then grey; after: first (170, 160, 135), then 1.5 times that.
    pixel = [180, 150, 100]
    assert colors(pixel, contrast=1.5, contrast_first=True, saturation=0.0) == [255, 255, 255]
    assert colors([100, 60, 20], contrast=0.5, contrast_first=False, saturation=0.0) == [50, 50, 50]
    early = colors(pixel, contrast=1.5, contrast_first=True, saturation=0.5)
    late = colors(pixel, contrast=1.5, contrast_first=False, saturation=0.5)
    assert early == pytest.approx([255, 240, 202.5])
    assert late == pytest.approx([255, 247.5, 210])


@settings(max_examples=100, deadline=None)
@given(
    pixel=st.tuples(*[st.integers(0, 255)] * 3),
    saturation=st.floats(0.5, 1.5),
    degrees=st.integers(-18, 17).map(lambda step: 2.0 * step),
)
def test_saturation_and_hue_agree_with_the_standard_library(pixel, saturation, degrees):
    hue, share, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in pixel))
    expected = colorsys.hsv_to_rgb((hue + degrees / 360) % 1.0, min(1.0, share * saturation), value)
    got = colors(pixel, saturation=saturation, hue=degrees)
    np.testing.assert_allclose(got, 255 * np.array(expected), atol=2e-3)


def test_each_image_gets_its_own_colors_and_neutral_ones_stay():
    images = torch.rand(3, 3, 4, 5, generator=make_generator("cpu", 1)) * 255
    before = images.clone()
    draws = dataclasses.replace(
        Draws.neutral(3), hue=torch.tensor([0.0, 20.0, 0.0]), brightness=torch.tensor([0.0, 0.0, 9.0])
    )
    after = distort_colors(images, ColorChanges.of(draws))
    assert torch.equal(images, before)
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])
    assert torch.equal(after[2], (before[2] + 9).clamp(max=255))
