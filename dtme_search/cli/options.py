"""Options shared by several commands. Flags say where and how much, never what is searched."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dtme_search.cli.arguments import STORAGE

DEFAULT_WORKDIR = Path("dtme-runs")


def complete_study(context: typer.Context, incomplete: str) -> list[str]:
    """Names of studies with this beginning, for shell completion: shipped ones, and those started here."""
    from dtme_search.config import shipped

    begun = Path(context.params.get("workdir") or DEFAULT_WORKDIR).glob("*/study.db")
    names = {*shipped("studies"), *(path.parent.name for path in begun)}
    return sorted(name for name in names if name.startswith(incomplete))


Study = Annotated[
    str,
    typer.Option(
        "--study",
        "-s",
        help="Name of a study (see `dtme-search studies`) or path to its YAML.",
        autocompletion=complete_study,
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar=STORAGE,
        show_envvar=True,
        help="Database URL, for example postgresql://user:pw@host/db. Default: SQLite in the study's folder.",
    ),
]
Workdir = Annotated[
    Path, typer.Option("--workdir", help="Folder for checkpoints, pictures and, by default, databases.")
]
DataRoot = Annotated[
    str | None,
    typer.Option(
        "--data-root",
        envvar="DTME_DATA_ROOT",
        show_envvar=True,
        help="Folder of the data set, such as NYUDv2.",
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda or cuda:N. Default: the first GPU, else the CPU.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change one field of the base config; may be repeated."),
]
Callbacks = Annotated[
    list[str] | None,
    typer.Option(
        "--callback",
        metavar="MODULE:NAME",
        help="A dtme_search.Callback to call on trials and evaluations; may be repeated.",
    ),
]


def callbacks_of(given: list[str] | None) -> tuple[str, ...]:
    """What ``--callback`` named; as with ``python -m``, a module may be in the current folder."""
    if given and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return tuple(given or ())
