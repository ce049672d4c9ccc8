"""Options that several commands share. Flags say where and how much, never what is searched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dtme_search.cli.arguments import STORAGE

Study = Annotated[
    str,
    typer.Option(
        "--study", "-s", help="Name of a study (see `dtme-search studies`) or the path of its YAML."
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
        help="Folder of the data set, for example NYUDv2.",
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda or cuda:N. Default: the first GPU, else the CPU.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change one field of the base config; may be repeated."),
]

DEFAULT_WORKDIR = Path("dtme-runs")
