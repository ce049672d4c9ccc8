"""Decoders by name; a new one is a file here, a line in ``DECODERS`` and one in its conformance suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtme_search.config import Section, find_part
from dtme_search.models.decoders.base import (
    Decoder,
    DecoderContext,
    DecoderKind,
    Level,
    PerTask,
    Predictions,
    Predictor,
    of_each_task,
    resize,
)
from dtme_search.models.decoders.dpt import build_dpt
from dtme_search.models.decoders.guarded import guarded_decoder
from dtme_search.models.decoders.image_heads import with_image_heads
from dtme_search.models.decoders.invpt import InvPTOptions, build_invpt, check_invpt
from dtme_search.models.decoders.simple import build_simple
from dtme_search.plugins import Family

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dtme_search.config import ModelConfig

DECODERS = Family(
    "decoders",
    DecoderKind,
    {
        "simple": DecoderKind(build_simple),
        "dpt": DecoderKind(build_dpt, num_levels=4),
        "invpt": DecoderKind(build_invpt, InvPTOptions, num_levels=4, check=check_invpt),
    },
    guarded_decoder,
)
"""Name in ``model.decoder`` -> how it is checked and built."""


def find_decoder(config: ModelConfig, plugins: Sequence[str] = ()) -> tuple[DecoderKind, Section]:
    """The decoder named by a config, and its options; the options of other decoders are checked as well.

    Args:
        config: Names the decoder.
        plugins: Files that may provide it, ``plugins`` of the run.

    Raises:
        ConfigError: If the decoder or an option is unknown, or an option has a wrong value.
    """
    chosen, given = ("model.decoder", config.decoder), ("model.decoder_options", config.decoder_options)
    return find_part(DECODERS, chosen, given, plugins)


__all__ = [
    "DECODERS",
    "Decoder",
    "DecoderContext",
    "DecoderKind",
    "Level",
    "PerTask",
    "Predictions",
    "Predictor",
    "find_decoder",
    "guarded_decoder",
    "of_each_task",
    "resize",
    "with_image_heads",
]
