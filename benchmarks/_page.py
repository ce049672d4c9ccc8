"""Tables of measurements in a page: between two marks, so that measuring again writes them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def put_table(page: Path, name: str, lines: Sequence[str]) -> None:
    """Write a table between ``<!-- name -->`` and ``<!-- end of name -->``.

    Raises:
        ValueError: If the page has no such marks.
    """
    before, between, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->\n")
    if not between or not end:
        raise ValueError(f"{page}: must have the marks of the table '{name}'.")
    page.write_text("".join([before, between, "\n".join(lines), "\n", end, after]), encoding="utf-8")
