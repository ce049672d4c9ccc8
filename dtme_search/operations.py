"""What can be built into a layer for a group of tasks: names, letters, and what each operation costs.

``models/operations/`` holds the modules behind the names. A new operation is a file there, a line in its
registry, an entry in :data:`OPERATIONS`, and its fields in ``config``; no other code asks for a name. Names
that are not here are operations of users (``plugins``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

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
        room: What it makes room in, ``tokens`` or ``weights``.
        num_parameters: Parameters of one group in one layer, of (embedding width, linear maps, options).
        options: Fields of ``expansion`` that decide its size and its results, with their defaults.
        misfit: Why options cannot be used with the linear maps of a block, as a sentence; empty if they can.
    """

    name: str
    letter: str
    words: str
    room: Literal["tokens", "weights"]
    num_parameters: Callable[[int, Linears, Options], int]
    options: Options = field(default_factory=dict)
    misfit: Callable[[Linears, Options], str] = lambda _linears, _options: ""


def _of_modulation(embed_dim: int, _linears: Linears, _options: Options) -> int:
    return 2 * embed_dim


def _of_expansion(embed_dim: int, _linears: Linears, options: Options) -> int:
    return int(options["num_task_tokens"]) * embed_dim


def _of_lora(_embed_dim: int, linears: Linears, options: Options) -> int:
    return int(options["lora_rank"]) * sum(sum(linears[target]) for target in lora_targets(options))


def _misfit_of_lora(linears: Linears, options: Options) -> str:
    rank = int(options["lora_rank"])
    for target in lora_targets(options):
        if target not in linears:
            return (
                f"expansion.lora_targets must name maps that blocks of the backbone have, got '{target}'. "
                f"They have {', '.join(linears) or 'none'}."
            )
        if rank > min(linears[target]):
            return (
                f"expansion.lora_rank must be at most {min(linears[target])}, the width of {target}, "
                f"got {rank}. Lower it."
            )
    return ""


def lora_targets(options: Options) -> list[str]:
    """Names of the maps that LoRA adapts."""
    return str(options["lora_targets"]).split("+")


_OF_LORA: Options = {"lora_rank": 4, "lora_alpha": 4.0, "lora_targets": "qkv+proj"}

OPERATIONS: Mapping[str, OperationSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            OperationSpec("modulate", "M", "modulation", "tokens", _of_modulation),
            OperationSpec("expand", "E", "expansion", "tokens", _of_expansion, {"num_task_tokens": 1}),
            OperationSpec("lora", "L", "LoRA", "weights", _of_lora, _OF_LORA, misfit=_misfit_of_lora),
        )
    }
)
"""All operations, in the order in which they act within a layer."""
LORA_MAPS = ("qkv", "proj", "fc1", "fc2")
"""Linear maps of a block that LoRA can adapt: of the attention, then of the MLP."""
OF_THE_PAPER = ("modulate", "expand")
"""Those of DTME (arXiv 2507.07485); tables always show them."""

_BOTH = "both"
_COMBINED = {_BOTH: "B", "modulate+lora": "m", "expand+lora": "e", "both+lora": "b"}
"""Letters of several operations at one layer."""


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Operations in the order in which they act within a layer: the built-in ones, then others by name."""
    given = set(names)
    return (*(name for name in OPERATIONS if name in given), *sorted(given - set(OPERATIONS)))


def name_of(operations: Iterable[str]) -> str:
    """What happens at a layer in one word: none, an operation, both (of the paper), or joined by plus signs.

    Example:
        >>> name_of([]), name_of(["expand"]), name_of(["expand", "modulate"])
        ('none', 'expand', 'both')
    """
    given = set(operations)
    words = [_BOTH] if given.issuperset(OF_THE_PAPER) else []
    words += in_order(given - set(OF_THE_PAPER) if words else given)
    return "+".join(words) or "none"


def operations_of(choice: str) -> tuple[str, ...]:
    """The operations that :func:`name_of` put into a word, which may also be ``auto``.

    Example:
        >>> operations_of("both"), operations_of("none"), operations_of("lora+mine")
        (('modulate', 'expand'), (), ('lora', 'mine'))
    """
    parts = set(choice.split("+")) - {"none", "auto"}
    return in_order(parts - {_BOTH} | (set(OF_THE_PAPER) if _BOTH in parts else set()))


def _subsets(names: tuple[str, ...], join: Callable[[Iterable[str]], str]) -> tuple[str, ...]:
    return tuple(
        join(name for bit, name in enumerate(names) if number >> bit & 1) for number in range(2 ** len(names))
    )


CHOICES = _subsets(tuple(OPERATIONS), name_of)
"""All that can happen at a layer."""
LORA_TARGETS = _subsets(LORA_MAPS, "+".join)[1:]
"""All sets of maps that LoRA can adapt."""
LETTERS: Mapping[str, str] = MappingProxyType(
    {
        choice: OPERATIONS[choice].letter
        if choice in OPERATIONS
        else _COMBINED.get(choice, "." if choice == "none" else "*")
        for choice in CHOICES
    }
)
"""One letter for each of :data:`CHOICES`; a star for combinations that have none of their own."""


def letter_of(choice: str) -> str:
    """Letter of what happens at a layer; a star where an operation of the user's takes part."""
    return LETTERS.get(choice, "*")


def in_words(choice: str) -> str:
    """What happens at a layer in words, for figures; a star stands for operations of the user's.

    Example:
        >>> in_words("expand+lora"), in_words("mine"), in_words("*")
        ('expansion + LoRA', 'mine', 'own operation')
    """
    if choice == "*":
        return "own operation"
    return " + ".join(OPERATIONS[part].words if part in OPERATIONS else part for part in choice.split("+"))


def legend(letters: Iterable[str] = ()) -> str:
    """What letters stand for: those of the paper, then whatever else is among ``letters``.

    Example:
        >>> legend("..ML")
        '. none, M modulation, E expansion, B both, L LoRA'
    """
    always = {name_of(each) for each in ((), OF_THE_PAPER, *((name,) for name in OF_THE_PAPER))}
    seen = set(letters)
    named = [choice for choice in CHOICES if choice in always or LETTERS[choice] in seen]
    named += ["*"] if "*" in seen else []
    return ", ".join(f"{letter_of(choice)} {in_words(choice)}" for choice in named)
