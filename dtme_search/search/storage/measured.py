"""Measures of a row by the names that a study gives them."""

from __future__ import annotations

import json

from dtme_search.config.measures import RECORDED


class Measured:
    """A row with measures that a study may name: columns of their own, and ``measures`` as JSON."""

    def measure(self, name: str) -> float | None:
        """Value of a measure; ``None`` if it is unknown, or not known yet."""
        value: float | None = getattr(self, name) if name in RECORDED else self.further_measures.get(name)
        return value

    @property
    def further_measures(self) -> dict[str, float]:
        """Measures without a column of their own."""
        found: dict[str, float] = json.loads(getattr(self, "measures", None) or "{}")
        return found
