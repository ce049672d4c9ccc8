"""Commands that manage studies, trials and the cache. They list what they will remove, and ask."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dtme_search.cli import options
from dtme_search.cli.app import cache_app, screen_of, study_app, trial_app
from dtme_search.cli.on_demand import commands
from dtme_search.cli.screen import Screen

if TYPE_CHECKING:
    from dtme_search.search import KnownStudy
    from dtme_search.search.manage.removal import Removal

_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")]


@study_app.command("delete", epilog="Example:  dtme-search study delete --study demo --dry-run")
def delete_study(
    context: typer.Context,
    study: options.Study,
    yes: _Yes = False,
    dry_run: _DryRun = False,
    storage: options.Storage = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Delete a study with all its rows and files.

    Single-task baselines stay in a database that other studies share. Refuses a study
    with running trials.
    """
    from dtme_search.search.manage.removal import of_study

    _carry_out(screen_of(context), of_study(study, storage=storage, workdir=workdir), yes, dry_run)


@study_app.command("clean", epilog="Example:  dtme-search study clean --study demo --yes")
def clean_study(
    context: typer.Context,
    study: options.Study,
    yes: _Yes = False,
    dry_run: _DryRun = False,
    storage: options.Storage = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Remove files that a study can do without.

    Removes training that its trials shared (later trials that need it train it again), logs of its workers,
    and files left by dead processes. Keeps results, plans, pictures, trained networks (keep_weights) and
    checkpoints of trials that will resume.
    """
    from dtme_search.search.manage.removal import of_spare

    _carry_out(screen_of(context), of_spare(study, storage=storage, workdir=workdir), yes, dry_run)


@study_app.command("rename", epilog="Example:  dtme-search study rename --study demo --to demo-first")
def rename_study(
    context: typer.Context,
    study: options.Study,
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="Its new name.")],
    storage: options.Storage = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Rename a study, in the database and on disk."""
    from dtme_search.search.manage.renaming import rename_study as rename

    loaded, file = rename(study, to, storage=storage, workdir=workdir)
    screen = screen_of(context)
    screen.line(f"Study {loaded.name}: renamed.")
    if file:
        screen.line(f"Set `name: {loaded.name}` in {file}, or optimize starts another study.")
    screen.news(f"Next:\n  {loaded.place.command('show')}")


@trial_app.command("delete", epilog="Example:  dtme-search trial delete --study demo --trial 3 --trial 5")
def delete_trial(
    context: typer.Context,
    study: options.Study,
    trial: Annotated[list[int], typer.Option("--trial", min=0, help="Its number; may be repeated.")],
    yes: _Yes = False,
    dry_run: _DryRun = False,
    storage: options.Storage = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Delete trials with their rows and files.

    No sampler learns from them and nothing counts them, so `optimize` runs others in their place. Their
    numbers are not used again.
    """
    from dtme_search.search.manage.removal import of_trials

    removal = of_trials(study, trial, storage=storage, workdir=workdir)
    _carry_out(screen_of(context), removal, yes, dry_run)


@cache_app.command("show", epilog="Example:  dtme-search cache show")
def show_cache(context: typer.Context) -> None:
    """Show where the cache is, what is in it and how large it may grow."""
    from dtme_search.cli.tables import print_table
    from dtme_search.data.reading.cache import cache_folder, cache_limit_gb, cached_files

    screen, folder = screen_of(context), cache_folder()
    sizes: dict[str, list[int]] = {}
    for path in cached_files():
        sizes.setdefault(path.relative_to(folder).parts[0], []).append(path.stat().st_size)
    total = sum(map(sum, sizes.values())) / 2**20
    screen.line(f"{folder}: {total:.1f} MB of at most {1024 * cache_limit_gb():.0f} MB")
    if sizes:
        rows = [
            (name, str(len(each)), f"{sum(each) / 2**20:.1f}", _CACHED.get(name, ""))
            for name, each in sorted(sizes.items())
        ]
        print_table(screen.console, "", ("what", "files", "MB", "holds"), rows)
    screen.hint("DTME_CACHE sets the folder, DTME_CACHE_GB its limit. All of it can be recreated.")


_CACHED = {
    "scenes": "rendered rooms",
    "digests": "hashes of data files",
    "verified": "notes on data already checked",
    "joblib": "derived labels, classes of images",
}


@cache_app.command("clear", epilog="Example:  dtme-search cache clear --yes")
def clear_cache(context: typer.Context, yes: _Yes = False, dry_run: _DryRun = False) -> None:
    """Remove everything from the cache; what is needed is made again, which takes time."""
    from dtme_search.data.reading.cache import cache_folder, cached_files
    from dtme_search.search.manage.removal import Removal, remove

    files = cached_files()
    what = f"the cache in {cache_folder()}"
    _carry_out(screen_of(context), Removal(what, {}, files, lambda: remove(files)), yes, dry_run)


def _carry_out(screen: Screen, removal: "Removal", yes: bool, dry_run: bool) -> None:
    """List what will be removed, ask unless already answered, and remove it."""
    told = _in_words(removal)
    if dry_run:
        screen.say(f"Would remove {told}.")
        for path in removal.files:
            screen.news(f"  {path}")
        return
    if not yes:
        typer.confirm(f"Remove {told}?", abort=True)
    removal.carry_out()
    screen.say(f"Removed {told}.")


def leftovers_in_words(storage: str | None, workdir: Path, *, repair: bool) -> list[tuple[str, str, str]]:
    """Rows for ``doctor``: leftovers, and whether they were removed."""
    from dtme_search.search.manage.leftovers import find_leftovers

    rows = []
    for removal in find_leftovers(storage=storage, workdir=workdir):
        if repair:
            removal.carry_out()
        how = "removed" if repair else "`dtme-search doctor --repair` removes it"
        rows.append(("leftovers", "ok" if repair else "warning", f"{_in_words(removal)}; {how}"))
    return rows or [("leftovers", "ok", "none")]


def _plural(count: int) -> str:
    return "1 file or folder" if count == 1 else f"{count} files or folders"


def _in_words(removal: "Removal") -> str:
    rows = ", ".join(f"{count} {table}" for table, count in removal.rows.items())
    files = f"{_plural(len(removal.files))}, {removal.size_mb:.1f} MB" if removal.files else ""
    return f"{removal.what}: " + ("; ".join(filter(None, [files, rows and f"rows: {rows}"])) or "nothing")


def print_known(screen: Screen, found: "list[KnownStudy]") -> None:
    """Studies already started: progress, size, last activity."""
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
    columns = ("study", "trials", "running", "interrupted", "MB on disk", "last activity")
    print_table(screen.console, "Studies already started", columns, rows)


for _group, _name in ((study_app, "study"), (trial_app, "trial"), (cache_app, "cache")):
    commands.add_typer(_group, name=_name)
