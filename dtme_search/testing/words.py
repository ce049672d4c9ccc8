"""What a part is called in a message."""

from __future__ import annotations

from dtme_search.plugins import FAMILIES


def words_of(family: str, name: str) -> str:
    """For example ``loss 'huber'``, or ``loss`` for a part without a name."""
    return f"{FAMILIES[family]} '{name}'" if name else FAMILIES[family]
