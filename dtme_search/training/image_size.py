"""The size of the tensors of a run whose config leaves it open: one that suits the images and the network."""

from __future__ import annotations

import logging

from dtme_search.config import RunConfig
from dtme_search.data.fitting import suitable_size, usual_size
from dtme_search.errors import ConfigError
from dtme_search.models import check_model, patch_size_of

_PATCHES = (1, 2, 4, 8, 16)
"""Tried in turn: some decoders want sides of several patches."""

_log = logging.getLogger(__name__)


def with_image_size(config: RunConfig) -> RunConfig:
    """The config of a run on own data with ``data.image_size``, which is chosen and told if it was not set.

    Raises:
        ConfigError: If the model cannot be built at any size.
        DataError: If the data cannot be opened.
    """
    if config.data.name != "folder" or "image_size" in config.data.model_fields_set:
        return config
    usual = usual_size(config.data)
    if usual is None:
        return config
    patch_size = patch_size_of(config.model, config.plugins)
    for patches in _PATCHES:
        size = suitable_size(usual, patch_size, patches)
        try:
            check_model(config.model, size, plugins=config.plugins)
        except ConfigError:
            if patches == _PATCHES[-1]:
                raise
        else:
            break
    _log.warning(
        "data.image_size is not set: %dx%d is used, which suits images of %dx%d in patches of %d. Set it to "
        "choose another one.",
        *(*size, *usual, patch_size),
    )
    data = config.data.model_copy(update={"image_size": size})
    return config.model_copy(update={"data": data})
