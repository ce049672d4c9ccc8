"""Commands that manage studies: delete one with all that belongs to it."""

from typing import TYPE_CHECKING, Annotated

import typer

from dtme_search.cli import options
from dtme_search.cli.app import app, screen_of
from dtme_search.cli.screen import Screen

if TYPE_CHECKING:
    from dtme_search.search import KnownStudy


@app.command(epilog="Example:  dtme-search delete --study demo --yes")
def delete(
    context: typer.Context,
    study: options.Study,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    storage: options.Storage = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Delete a study with all its rows and files.

    Single-task baselines stay in a database that other studies share. Refuses a study with running trials.
    """
    from dtme_search.search import delete_study, load_study

    loaded = load_study(study, storage=storage, workdir=workdir)
    trials = len(loaded.optuna.get_trials(deepcopy=False))
    if not yes:
        typer.confirm(f"Delete study {loaded.name} with {trials} trials and all its files?", abort=True)
    delete_study(study, storage=storage, workdir=workdir)
    screen_of(context).say(f"Study {loaded.name} deleted.")


def print_known(screen: Screen, found: "list[KnownStudy]") -> None:
    """Studies already started: how far they are, what they take, when they last did something."""
    from dtme_search.cli.tables import print_table

    rows = [
        (
            study.name,
            f"{study.finished} of {study.planned or '?'}",
            str(study.running),
            str(study.interrupted),
            f"{study.size_mb:.0f}",
            f"{study.last_activity:%Y-%m-%d %H:%M}" if study.last_activity else "",
        )
        for study in found
    ]
    print_table(
        screen.console,
        "Studies already started",
        ("study", "trials", "running", "interrupted", "MB on disk", "last activity"),
        rows,
    )
