"""Parts from outside are watched as they run: an error names the part, its method and the rule it breaks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dtme_search.errors import BrokenRule, DtmeSearchError


def shape_or_type(found: Any, kind: type[Any]) -> tuple[int, ...] | str:
    """What a message says a method gave: the shape of what is of a kind, such as a tensor, else its type."""
    return tuple(found.shape) if isinstance(found, kind) else type(found).__name__


@dataclass(frozen=True)
class Guard:
    """Watches one part.

    Attributes:
        part: The part in words, for example ``loss 'huber' of my_parts.py``.
    """

    part: str

    def hold(self, holds: bool, method: str, rule: str) -> None:
        """Insist on a rule.

        Args:
            holds: Whether it holds.
            method: The method that must keep it.
            rule: What the method must do, as read after "must".

        Raises:
            BrokenRule: If it does not hold.
        """
        if not holds:
            raise self.broken(method, rule)

    def broken(self, method: str, rule: str) -> BrokenRule:
        """The error that names the part, the method and what the method must do."""
        return BrokenRule(f"{self.part}: {method} must {rule}. See docs/plugins.md.")

    @contextmanager
    def calling(self, method: str, *allowed: type[Exception]) -> Iterator[None]:
        """Call a method inside: what it raises is its mistake, except our own errors and those ``allowed``.

        Raises:
            BrokenRule: With the type and the first line of the error.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, (DtmeSearchError, *allowed)):
                raise
            told = " ".join(str(error).splitlines()[:1]).rstrip(".")
            raise self.broken(method, f"not fail, got {type(error).__name__}: {told}") from error

    def has(self, made: object, methods: Iterable[str]) -> None:
        """Insist that an object has methods.

        Raises:
            BrokenRule: Names the first one that is missing.
        """
        for method in methods:
            is_there = callable(getattr(made, method, None))
            self.hold(is_there, method, f"be a method of what build gives, a {type(made).__name__}")
