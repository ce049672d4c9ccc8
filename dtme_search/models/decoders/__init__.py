"""Decoders by name; a new one is a file here, a line in ``DECODERS`` and one in its conformance suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtme_search.config import Section, validate
from dtme_search.errors import ConfigError, nearest
from dtme_search.models.decoders.base import (
    Decoder,
    DecoderContext,
    DecoderKind,
    Level,
    PerTask,
    Predictions,
    Predictor,
    resize,
)
from dtme_search.models.decoders.dpt import build_dpt
from dtme_search.models.decoders.invpt import InvPTOptions, build_invpt, check_invpt
from dtme_search.models.decoders.simple import build_simple

if TYPE_CHECKING:
    from dtme_search.config import ModelConfig

DECODERS: dict[str, DecoderKind] = {
    "simple": DecoderKind(build_simple),
    "dpt": DecoderKind(build_dpt, num_levels=4),
    "invpt": DecoderKind(build_invpt, InvPTOptions, num_levels=4, check=check_invpt),
}
"""Name in ``model.decoder`` -> how it is checked and built."""


def find_decoder(config: ModelConfig) -> tuple[DecoderKind, Section]:
    """The decoder that a config names, and its options; those of the others are checked as well.

    Raises:
        ConfigError: If the decoder or an option is unknown, or an option has a wrong value.
    """
    for place, names in {
        "model.decoder": (config.decoder,),
        "model.decoder_options": config.decoder_options,
    }.items():
        for name in names:
            if name not in DECODERS:
                raise ConfigError(f"{place}: no decoder is named '{name}'.{nearest(name, DECODERS)}")
    options = {
        name: validate(kind.options, config.decoder_options.get(name, {}), f"model.decoder_options.{name}")
        for name, kind in DECODERS.items()
    }
    return DECODERS[config.decoder], options[config.decoder]


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
    "resize",
]
