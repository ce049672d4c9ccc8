"""Architectures by name; a new one is a folder here, a line in ``ARCHITECTURES``, and an entry in the suite.

Most ways to decode are decoders behind a plain ViT (``model.decoder``). An architecture also changes what
happens inside the backbone, and has its own decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dtme_search.config import Section, validate
from dtme_search.errors import ConfigError, nearest
from dtme_search.models.backbone import Backbone
from dtme_search.models.decoders import DecoderContext, DecoderKind, find_decoder
from dtme_search.models.taskprompter import PrompterOptions, build_prompter, check_prompter, prompted_backbone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dtme_search.config import ModelConfig

PLAIN = "vit"
"""The backbone as it is, with the decoder that ``model.decoder`` names."""


@dataclass(frozen=True)
class Architecture:
    """Entry of the registry.

    Attributes:
        adapt: Turns a plain backbone, with weights loaded, into that of this architecture. Arguments: the
            backbone, the context of the decoder, the numbers of the decoded blocks, and the options.
        decoder: Its decoder; ``decoder.options`` checks the options of both.
    """

    adapt: Callable[[Backbone, DecoderContext, tuple[int, ...], Any], Backbone]
    decoder: DecoderKind


def _unchanged(plain: Backbone, *_: Any) -> Backbone:
    return plain


ARCHITECTURES = {
    "taskprompter": Architecture(
        prompted_backbone, DecoderKind(build_prompter, PrompterOptions, num_levels=4, check=check_prompter)
    ),
}
"""Name in ``model.architecture`` -> how it is checked and built."""


def find_architecture(config: ModelConfig, plugins: Sequence[str] = ()) -> tuple[Architecture, Section]:
    """The architecture named by a config, and the options of its decoder; arguments as for ``find_decoder``.

    Raises:
        ConfigError: If architecture, decoder or an option is unknown, or an option has a wrong value.
    """
    for place, names in {
        "model.architecture": (config.architecture,),
        "model.architecture_options": config.architecture_options,
    }.items():
        for name in names:
            if name not in (known := (PLAIN, *ARCHITECTURES)):
                raise ConfigError(f"{place}: no architecture is named '{name}'.{nearest(name, known)}")
    decoder, options = find_decoder(config, plugins)
    chosen: tuple[Architecture, Section] = Architecture(_unchanged, decoder), options
    for name, architecture in ARCHITECTURES.items():
        place = f"model.architecture_options.{name}"
        options = validate(architecture.decoder.options, config.architecture_options.get(name, {}), place)
        if name == config.architecture:
            chosen = architecture, options
    return chosen
