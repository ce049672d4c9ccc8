"""What can be built into a layer for a group of tasks: names, letters, and what each operation costs.

``models/operations/`` holds the modules behind the names. A new operation is a file there, a line in its
registry, an entry in :data:`OPERATIONS`, and its fields in ``config``; no other code asks for a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

Options = Mapping[str, int | float | str]
"""Fields of ``expansion`` that an operation reads."""
Linears = Mapping[str, tuple[int, int]]
"""Linear maps of a block that can be adapted, by name: (inputs, outputs)."""


@dataclass(frozen=True)
class OperationSpec:
    """One operation as plans, configs and tables know it.

    Attributes:
        name: In configs, plans and SQL.
        letter: In tables with one letter per layer.
        words: In figures and headings.
        num_parameters: Parameters of one group in one layer, of (embedding width, linear maps, options).
        options: Fields of ``expansion`` that decide its size and its results, with their defaults.
    """

    name: str
    letter: str
    words: str
    num_parameters: Callable[[int, Linears, Options], int]
    options: Options = field(default_factory=dict)


def _of_modulation(embed_dim: int, _linears: Linears, _options: Options) -> int:
    return 2 * embed_dim


def _of_expansion(embed_dim: int, _linears: Linears, options: Options) -> int:
    return int(options["num_task_tokens"]) * embed_dim


OPERATIONS: Mapping[str, OperationSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            OperationSpec("modulate", "M", "modulation", _of_modulation),
            OperationSpec("expand", "E", "expansion", _of_expansion, {"num_task_tokens": 1}),
        )
    }
)
"""All operations, in the order in which they act within a layer."""
OF_THE_PAPER = ("modulate", "expand")
"""Those of DTME (arXiv 2507.07485); tables always show them."""

_BOTH = "both"
_COMBINED = {_BOTH: "B"}
"""Letters of several operations at one layer."""


def name_of(operations: Iterable[str]) -> str:
    """What happens at a layer in one word: none, an operation, both (of the paper), or joined by plus signs.

    Example:
        >>> name_of([]), name_of(["expand"]), name_of(["expand", "modulate"])
        ('none', 'expand', 'both')
    """
    given = set(operations)
    words = [_BOTH] if given.issuperset(OF_THE_PAPER) else []
    words += [
        name for name in OPERATIONS if name in given and not (words[:1] == [_BOTH] and name in OF_THE_PAPER)
    ]
    return "+".join(words) or "none"


def operations_of(choice: str) -> tuple[str, ...]:
    """The operations that :func:`name_of` put into a word; none for words that name none.

    Example:
        >>> operations_of("both"), operations_of("none")
        (('modulate', 'expand'), ())
    """
    parts = choice.replace(_BOTH, "+".join(OF_THE_PAPER)).split("+")
    return tuple(name for name in OPERATIONS if name in parts)


def _choices() -> tuple[str, ...]:
    names = tuple(OPERATIONS)
    return tuple(
        name_of(name for bit, name in enumerate(names) if number >> bit & 1)
        for number in range(2 ** len(names))
    )


CHOICES = _choices()
"""All that can happen at a layer."""
LETTERS: Mapping[str, str] = MappingProxyType(
    {
        choice: OPERATIONS[choice].letter
        if choice in OPERATIONS
        else _COMBINED.get(choice, "." if choice == "none" else "*")
        for choice in CHOICES
    }
)
"""One letter for each of :data:`CHOICES`; a star for combinations that have none of their own."""
WORDS: Mapping[str, str] = MappingProxyType(
    {choice: OPERATIONS[choice].words if choice in OPERATIONS else choice for choice in CHOICES}
)
"""The same in words, for figures."""
