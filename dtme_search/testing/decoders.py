"""Rules of decoders."""

from __future__ import annotations

from typing import Any

import torch

from dtme_search.guards import Guard
from dtme_search.models.backbone import BackboneInfo
from dtme_search.models.decoders import DecoderContext, DecoderKind, Level, Predictions, guarded_decoder
from dtme_search.tasks import depth, normals, semseg
from dtme_search.testing.networks import hold_all_reached, same_weights
from dtme_search.testing.words import words_of

_WIDTH, _GRID, _PATCH, _IMAGES = 24, (4, 6), 8, 2
_SPECS = {spec.name: spec for spec in (semseg(("wall", "floor", "box")), depth(), normals())}
_ALL = tuple(_SPECS)
_INFO = BackboneInfo(
    num_layers=4,
    embed_dim=_WIDTH,
    num_heads=2,
    num_parameters=0,
    num_prefix_tokens=1,
    patch_size=_PATCH,
    grid=_GRID,
)


def check_decoder(kind: DecoderKind, options: Any = None, *, name: str = "") -> None:
    """Check a decoder on the made-up feature maps of three tasks, in one stream and in several.

    Args:
        kind: The decoder.
        options: Its options; by default their defaults.
        name: For messages.

    Raises:
        BrokenRule: Names the first rule that is broken.
    """
    guard = Guard(words_of("decoders", name))
    guarded = guarded_decoder(kind, guard.part)
    options = kind.options() if options is None else options
    guarded.check(_INFO, None, options)
    num_levels = kind.num_levels or 1
    size = (_GRID[0] * _PATCH, _GRID[1] * _PATCH)
    context = DecoderContext(_SPECS, _INFO, num_levels, None, size, {"depth": torch.tensor([1.0])}, seed=3)
    before = torch.random.get_rng_state()
    decoder, same = guarded.build(context, options), guarded.build(context, options)
    rule = "follow the seed of the context: use seeded or of_each_task of dtme_search.models.decoders"
    untouched = torch.equal(before, torch.random.get_rng_state())
    guard.hold(same_weights(decoder, same) and untouched, "build", rule)
    for streams in ((_ALL,), (("semseg", "normals"), ("depth",)), tuple((task,) for task in _ALL)):
        levels = _levels(streams, num_levels)
        predictions: Predictions = decoder.train()(levels, _ALL)
        finite = all(bool(output.isfinite().all()) for output in predictions.outputs.values())
        guard.hold(finite, "forward", "give finite numbers")
        for task in _ALL:
            decoder(levels, (task,))
    every = (*predictions.outputs.values(), *(one for some in predictions.auxiliary.values() for one in some))
    torch.stack([output.square().sum() for output in every]).sum().backward()
    hold_all_reached(decoder, "forward", guard)
    _check_mixing(decoder.eval(), num_levels, guard)


def _check_mixing(decoder: Any, num_levels: int, guard: Guard) -> None:
    """Images, and where it is promised tasks, do not depend on each other."""
    levels = _levels(tuple((task,) for task in _ALL), num_levels)
    first = [Level(level.streams, level.maps[:, :1]) for level in levels]
    both, alone = decoder(levels, _ALL).outputs, decoder(first, _ALL).outputs
    for task in _ALL:
        rule = f"treat each image by itself in evaluation: next to another one {task} is something else"
        guard.hold(torch.allclose(both[task][:1], alone[task], rtol=1e-4, atol=1e-5), "forward", rule)
    if not decoder.mixes_tasks:
        other = decoder(levels, ("depth",)).outputs["depth"]
        rule = "be true where the outputs of a task depend on which others are asked for"
        guard.hold(torch.allclose(both["depth"], other, rtol=1e-4, atol=1e-5), "mixes_tasks", rule)


def _levels(streams: tuple[tuple[str, ...], ...], count: int) -> list[Level]:
    draw = torch.Generator().manual_seed(len(streams))
    shape = (len(streams), _IMAGES, _WIDTH, *_GRID)
    return [Level(streams, torch.randn(shape, generator=draw)) for _ in range(count)]
