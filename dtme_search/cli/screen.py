"""Where a command prints, and how it ends when stopped."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console


NEWS = logging.getLogger("dtme_search.news")
"""Progress messages, for the log file."""


@dataclass(frozen=True)
class Screen:
    """Prints results, and progress messages unless quiet.

    Everything goes to the log file too, if there is one (``--log-file``).

    Attributes:
        quiet: Results and errors only: no progress, no explanations, no next commands, no sketches.
    """

    quiet: bool = False

    @cached_property
    def console(self) -> Console:
        """Terminal or file behind stdout. Texts are printed literally: a ``[`` in a path is not markup."""
        from rich.console import Console

        return Console(markup=False, highlight=False, emoji=False)

    @property
    def is_live(self) -> bool:
        """Whether animations may be drawn."""
        return self.console.is_terminal and not self.quiet

    @property
    def wants_signs(self) -> bool:
        """Whether to print signs of life, because the output goes to a file instead of a terminal."""
        return not self.console.is_terminal and not self.quiet

    def say(self, text: str = "", *, style: str | None = None) -> None:
        """Print a sentence; a terminal wraps it between words, a file gets it in one line."""
        self.console.print(text, style=style, soft_wrap=not self.console.is_terminal)

    def line(self, text: str, *, style: str | None = None) -> None:
        """Print a line that must not be wrapped, such as a path or a command."""
        self.console.print(text, style=style, soft_wrap=True)

    def news(self, text: str) -> None:
        """Print a progress message."""
        NEWS.info(text)
        if not self.quiet:
            self.line(text)

    def sign(self, text: str) -> None:
        """Print a sign of life, if no bars show it."""
        NEWS.info(text)
        if self.wants_signs:
            self.line(text)

    def hint(self, text: str = "", *, style: str | None = "dim") -> None:
        """Explain a result, or what to do next, in a sentence."""
        if not self.quiet:
            self.say(text, style=style)


@contextmanager
def stoppable(
    again: str = "Run the same command again to resume from the last checkpoint.",
) -> Iterator[None]:
    """End with exit code 130 if a signal stops the work inside.

    Args:
        again: What the same command does when it is run again.
    """
    from dtme_search.training import TrainingInterrupted

    try:
        yield
    except (TrainingInterrupted, KeyboardInterrupt) as stopped:
        how = str(stopped) or "stopped"
        typer.echo(f"dtme-search: {how}. {again}", err=True)
        raise typer.Exit(130) from None
