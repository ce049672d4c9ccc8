"""All private names of timm that this package relies on.

timm has no public way to do these things. ``tests/models/test_timm_internals.py`` checks for each that it
still works, and pyproject.toml keeps timm below the next minor version.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def with_positions(vit: Any, patches: Tensor) -> Tensor:
    """Patches of ``vit.patch_embed`` to tokens (B, L, P): prefix tokens and position embedding added.

    timm has no public name for the step between patch embedding and blocks. Its rotary models also return the
    positions; here the blocks get those themselves.
    """
    embedded = vit._pos_embed(patches)
    tokens: Tensor = embedded[0] if isinstance(embedded, tuple) else embedded
    return tokens
