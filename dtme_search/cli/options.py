"""Options shared by several commands. Flags say where and how much, never what is searched."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dtme_search.cli.arguments import STORAGE
from dtme_search.errors import ConfigError

if TYPE_CHECKING:
    from dtme_search.search.study.weights import TrainedTrial as Trained

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
StudyOfTrial = Annotated[
    str | None,
    typer.Option("--study", "-s", help="Study of the trial to use.", autocompletion=complete_study),
]
TrainedTrial = Annotated[
    int | None,
    typer.Option("--trial", min=0, help="Use the trained network of this trial instead of a file."),
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
DevicesPerTrial = Annotated[
    int,
    typer.Option(
        "--devices-per-trial",
        min=1,
        help="GPUs that divide each batch among them; train.accumulate must be a multiple of it.",
    ),
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

Trackers = Annotated[
    list[str] | None,
    typer.Option(
        "--tracker",
        metavar="NAME",
        help="Also write to tensorboard, mlflow or wandb, or to a tracker of your own; may be repeated.",
    ),
]


def callbacks_of(given: list[str] | None, trackers: list[str] | None) -> tuple[str, ...]:
    """What ``--callback`` and ``--tracker`` named.

    As with ``python -m``, the module of a callback may be in the current folder.

    Raises:
        ConfigError: If one was given as the other.
    """
    for path in given or ():
        if ":" not in path:
            raise ConfigError(f"--callback must be MODULE:NAME, got '{path}'. For a tracker use --tracker.")
    for name in trackers or ():
        if ":" in name:
            raise ConfigError(f"--tracker must be a name, got '{name}'. For MODULE:NAME use --callback.")
    if given and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return (*(given or ()), *(trackers or ()))


def trained_trial(study: str | None, trial: int | None, storage: str | None, workdir: Path) -> Trained | None:
    """The trial that ``--study`` and ``--trial`` name together, or ``None`` if neither was given.

    Raises:
        ConfigError: If only one of them was given.
        StorageError: If its trained network is not at hand.
    """
    from dtme_search.search import load_study
    from dtme_search.search.study.weights import trained_trial as find

    if study is None and trial is None:
        return None
    if study is None or trial is None:
        missing = "--study" if study is None else "--trial"
        raise ConfigError(f"--study and --trial must be given together, got no {missing}.")
    return find(load_study(study, storage=storage, workdir=workdir), trial)
