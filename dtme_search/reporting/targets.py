"""Files that a user asks for: none takes the place of another, or of what somebody else wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dtme_search.errors import ConfigError

MARK = "dtme-search"
"""Stands in every file that we write for a user."""
_HEAD_BYTES = 4096


def refuse_foreign(path: Path) -> None:
    """Refuse to write over a file that is not of an earlier call.

    Raises:
        ConfigError: If there is one.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        if MARK.encode() not in file.read(_HEAD_BYTES):
            raise ConfigError(
                f"{path} exists already and was not written by {MARK}. Give --out another name."
            )


def panel_names(pictures: Sequence[Path]) -> list[str]:
    """A name of its own for the panels of each picture.

    Where pictures share a name, folders and ending tell them apart; where these do not, a number does.

    Example:
        >>> panel_names([Path("a/shot.jpg"), Path("b/shot.jpg"), Path("leaf.png")])
        ['a-shot.jpg-panels.png', 'b-shot.jpg-panels.png', 'leaf-panels.png']
    """
    # Some file systems take A and a for the same letter.
    stems = Counter(path.stem.casefold() for path in pictures)
    names: list[str] = []
    for path in pictures:
        alone = stems[path.stem.casefold()] == 1
        name = path.stem if alone else "-".join(part for part in path.parts if part not in ("/", "..", "."))
        number, known = 1, {each.casefold() for each in names}
        while (name if number == 1 else f"{name}-{number}").casefold() in known:
            number += 1
        names.append(name if number == 1 else f"{name}-{number}")
    return [f"{name}-panels.png" for name in names]
