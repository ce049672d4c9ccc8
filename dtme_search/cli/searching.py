"""Commands for a study: run it, export its best trial, see what exists."""

import sys
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dtme_search.cli import options
from dtme_search.cli.app import screen_of, was_given
from dtme_search.cli.arguments import WARM_START_STORAGE
from dtme_search.cli.on_demand import commands
from dtme_search.cli.screen import stoppable
from dtme_search.errors import ConfigError


class SchemaOf(StrEnum):
    """What a schema describes."""

    study = "study"
    config = "config"
    reference = "reference"


class Engine(StrEnum):
    """What runs several workers."""

    local = "local"
    dask = "dask"


@commands.command(epilog="Example:  dtme-search optimize --study nyud --data-root /data/NYUDv2 --trials 64")
def optimize(
    context: typer.Context,
    study: options.Study,
    storage: options.Storage = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Total number of finished trials, over all runs.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0, help="Checkpoint and stop after this many seconds."),
    ] = None,
    device: options.Device = None,
    devices_per_trial: options.DevicesPerTrial = 1,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="Trials to run at once, one process each. Default: one per GPU; "
            "without a GPU one per core, at most 4.",
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option("--devices", metavar="0,1,...", help="GPUs to use, or cpu. Default: all GPUs."),
    ] = None,
    trials_per_device: Annotated[
        int, typer.Option("--trials-per-device", min=1, help="Workers per GPU.")
    ] = 1,
    engine: Annotated[
        Engine, typer.Option("--engine", help="Where workers run: on this machine or on a Dask cluster.")
    ] = Engine.local,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="ADDRESS",
            help="With --engine dask: address of a running scheduler, for example tcp://host:8786, or its "
            "scheduler file. Default: start a cluster on this machine.",
        ),
    ] = None,
    data_root: options.DataRoot = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
    set_: options.Set = None,
    reuse: Annotated[
        bool, typer.Option("--reuse/--no-reuse", help="Share work between trials, as set in the study.")
    ] = True,
    warm_start_from: Annotated[
        str | None,
        typer.Option(
            "--warm-start-from",
            metavar="STUDY",
            help="Let the sampler learn from the finished trials of this study; they never count as results.",
        ),
    ] = None,
    warm_start_storage: Annotated[
        str | None,
        typer.Option(
            "--warm-start-storage",
            envvar=WARM_START_STORAGE,
            show_envvar=True,
            metavar="URL",
            help="Database of that study. Default: the same as for this study.",
        ),
    ] = None,
    tracker: options.Trackers = None,
    callback: options.Callbacks = None,
) -> None:
    """Run a study, or resume it where it stopped.

    Trains the missing single-task baselines, then runs trials until the study has its total. Press Ctrl-C
    once to checkpoint and stop after the current step, twice to stop immediately. Run the same command
    again to resume.
    """
    from dtme_search.cli.progress import listening
    from dtme_search.cli.render import print_study
    from dtme_search.reporting import PageKeeper, draw_trial, write_page
    from dtme_search.search import optimize as run

    if warm_start_from is None and was_given(context, "warm_start_storage"):
        raise ConfigError("optimize: --warm-start-storage needs --warm-start-from STUDY.")
    screen = screen_of(context)
    with stoppable(), listening(screen) as listener:
        loaded = run(
            study,
            storage=storage,
            trials=trials,
            timeout=timeout,
            device=device,
            devices_per_trial=devices_per_trial,
            workers=workers,
            devices=None if devices is None else [name.strip() for name in devices.split(",")],
            trials_per_device=trials_per_device,
            engine=engine.value,
            scheduler=scheduler,
            data_root=data_root,
            workdir=workdir,
            overrides=tuple(set_ or ()),
            reuse=reuse,
            listener=listener,
            draw=draw_trial,
            warm_start_from=warm_start_from,
            warm_start_storage=warm_start_storage,
            publish=PageKeeper(),
            callbacks=options.callbacks_of(callback, tracker),
        )
    write_page(loaded)
    print_study(screen, loaded)
    if loaded.stopped:
        screen.say("Stopped. Run the same command again to resume from the last checkpoint.")
        raise typer.Exit(130)


@commands.command(epilog="Example:  dtme-search worker --study nyud --storage postgresql://user@host/studies")
def worker(
    context: typer.Context,
    study: options.Study,
    storage: options.Storage = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0, help="Checkpoint and stop after this many seconds."),
    ] = None,
    device: options.Device = None,
    devices_per_trial: options.DevicesPerTrial = 1,
    data_root: options.DataRoot = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
    launcher: Annotated[
        int | None, typer.Option("--launcher", hidden=True, help="Process that started it.")
    ] = None,
    tracker: options.Trackers = None,
    callback: options.Callbacks = None,
) -> None:
    """Join a study, from this machine or another.

    Runs trials alongside the study's other workers until none is left to start. Uses the config, search
    space and total of the last `optimize`. On Ctrl-C or SIGTERM it checkpoints its trial and hands it back.
    """
    from dtme_search.cli.progress import listening
    from dtme_search.reporting import draw_trial
    from dtme_search.search import Reporter, join

    screen = screen_of(context)
    again = "The study's other workers, or the next one, resume from the last checkpoint."
    with stoppable(again), ExitStack() as shown:
        listener = shown.enter_context(listening(screen)) if launcher is None else Reporter(sys.stdout)
        loaded = join(
            study,
            storage=storage,
            timeout=timeout,
            device=device,
            devices_per_trial=devices_per_trial,
            data_root=data_root,
            workdir=workdir,
            listener=listener,
            draw=draw_trial,
            launcher=launcher,
            callbacks=options.callbacks_of(callback, tracker),
        )
    if loaded.stopped:
        typer.echo(f"dtme-search: stopped. {again}", err=True)
        raise typer.Exit(130)
    if launcher is None:
        screen.say(f"No trial of {loaded.name} is left to start.")


@commands.command(epilog="Example:  dtme-search doctor --study nyud --data-root /data/NYUDv2")
def doctor(
    context: typer.Context,
    study: Annotated[
        str | None, typer.Option("--study", "-s", help="Also check what this study needs.")
    ] = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Remove rows of deleted studies and files that no trial needs."),
    ] = False,
    storage: options.Storage = None,
    data_root: options.DataRoot = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Check whether a search can run here.

    Prints one line each for versions, devices, database, clock, disk, folders, data and leftovers. Changes
    nothing without --repair. The exit code is 0 if a search can run, 2 if not.
    """
    from dtme_search.cli.managing import leftovers_in_words
    from dtme_search.cli.tables import print_table
    from dtme_search.search import can_run, examine

    screen = screen_of(context)
    checks = examine(study, storage=storage, data_root=data_root, workdir=workdir)
    rows: list[tuple[str, str, str]] = [(check.name, check.state, check.found) for check in checks]
    rows += leftovers_in_words(storage, workdir, repair=repair)
    print_table(screen.console, "", ("check", "state", "found"), rows)
    if not can_run(checks):
        raise typer.Exit(2)


@commands.command(epilog="Example:  dtme-search baseline --study demo")
def baseline(
    context: typer.Context,
    study: options.Study,
    storage: options.Storage = None,
    device: options.Device = None,
    devices_per_trial: options.DevicesPerTrial = 1,
    data_root: options.DataRoot = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
    set_: options.Set = None,
) -> None:
    """Train the single-task baselines of a study.

    Trains only those missing from the database and prints all of them.
    """
    from dtme_search.cli.progress import listening
    from dtme_search.cli.render import print_baselines
    from dtme_search.search import train_baselines

    screen = screen_of(context)
    with stoppable(), listening(screen) as listener:
        rows = train_baselines(
            study,
            storage=storage,
            device=device,
            devices_per_trial=devices_per_trial,
            data_root=data_root,
            workdir=workdir,
            overrides=tuple(set_ or ()),
            listener=listener,
        )
    print_baselines(screen, rows.values())


@commands.command(epilog="Example:  dtme-search confirm --study demo --top 3 --seeds 3")
def confirm(
    context: typer.Context,
    study: options.Study,
    top: Annotated[
        int, typer.Option("--top", min=1, help="Number of leaders: the front first, then by delta_m.")
    ] = 3,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Further seeds per leader, counting those it already has.")
    ] = 3,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines",
            help="Train single-task baselines for each seed; gains over the unexpanded network need none.",
        ),
    ] = True,
    storage: options.Storage = None,
    device: options.Device = None,
    devices_per_trial: options.DevicesPerTrial = 1,
    data_root: options.DataRoot = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Repeat the leaders of a study with further seeds.

    Each repeat trains what `export` would write and compares it with single-task baselines of the same
    seed. The unexpanded trial is repeated too: the gain over it, seed by seed, is nearly free of the noise
    between seeds and needs no new baselines. Mean and standard deviation leave out the seed of the search,
    because its value was selected for being high. Ctrl-C saves a checkpoint and stops; run the same command
    again to train what is missing.
    """
    from dtme_search.cli.confirmed import best_in_words, print_confirmed
    from dtme_search.cli.progress import listening
    from dtme_search.reporting import best_trial, write_page
    from dtme_search.search import confirm as run

    screen = screen_of(context)
    with stoppable(), listening(screen) as listener:
        loaded = run(
            study,
            top=top,
            seeds=seeds,
            new_baselines=baselines,
            storage=storage,
            device=device,
            devices_per_trial=devices_per_trial,
            data_root=data_root,
            workdir=workdir,
            listener=listener,
        )
    write_page(loaded)
    print_confirmed(screen, loaded)
    screen.say(best_in_words(loaded, best_trial(loaded)))


@commands.command(epilog="Example:  dtme-search export --study demo --best --out best.yaml")
def export(
    context: typer.Context,
    study: options.Study,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write; a folder with --pareto.")],
    best: Annotated[bool, typer.Option("--best", help="The best feasible trial (the default).")] = False,
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="The trial with this number.")] = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="Every trial on the front.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Export even an untrusted result or one above a limit.")
    ] = False,
    storage: options.Storage = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Write the config of a trial for `dtme-search train`.

    The file holds the trial's expansion plan, so it trains the same network anywhere.
    """
    from dtme_search.reporting import export_best, export_front, export_trial
    from dtme_search.search import load_study

    if best + (trial is not None) + pareto > 1:
        raise ConfigError("export: --best, --trial and --pareto cannot be combined; give one.")
    loaded = load_study(study, storage=storage, workdir=workdir)
    if pareto:
        paths = export_front(loaded, out, force=force)
    elif trial is not None:
        paths = [export_trial(loaded, trial, out, force=force)]
    else:
        paths = [export_best(loaded, out, force=force)]
    for path in paths:
        screen_of(context).line(str(path))


@commands.command(epilog="Example:  dtme-search studies")
def studies(
    context: typer.Context,
    storage: options.Storage = None,
    workdir: Annotated[
        Path | None, typer.Option("--workdir", help="List the studies started in this folder.")
    ] = None,
) -> None:
    """List shipped studies and configs, or studies already started.

    With --workdir or --storage, lists the studies in that folder or database with their progress and size.
    """
    if workdir is not None or was_given(context, "storage"):
        from dtme_search.cli.managing import print_known
        from dtme_search.search import known_studies

        known = known_studies(storage=storage, workdir=workdir or options.DEFAULT_WORKDIR)
        print_known(screen_of(context), known)
        return
    from dtme_search.cli.tables import print_table
    from dtme_search.config import load_study_config, shipped
    from dtme_search.words import heading

    rows = []
    for name, path in sorted(shipped("studies").items()):
        try:
            found = load_study_config(str(path))
            rows.append(
                (name, str(found.trials), ", ".join(map(heading, found.objectives)), found.description)
            )
        except ConfigError as error:
            rows.append((name, "", "", f"broken: {error}"))
    screen = screen_of(context)
    columns = ("study", "trials", "objectives", "what")
    print_table(screen.console, "Studies, for optimize --study NAME", columns, rows)
    screen.line("")
    configs = [(name, str(path)) for name, path in sorted(shipped("configs").items())]
    print_table(screen.console, "Configs, for train NAME and conflicts NAME", ("config", "file"), configs)


@commands.command(epilog="Example:  dtme-search schema study > study.schema.json")
def schema(
    of: Annotated[
        SchemaOf, typer.Argument(help="What the schema describes; reference: a Markdown page of all fields.")
    ] = SchemaOf.study,
) -> None:
    """Print the JSON schema of a study or a config.

    With this schema an editor can complete and check the YAML.
    """
    import json

    from dtme_search.config import RunConfig, StudyConfig
    from dtme_search.config.reference import reference

    if of is SchemaOf.reference:
        typer.echo(reference(), nl=False)
        return
    described = StudyConfig if of is SchemaOf.study else RunConfig
    typer.echo(json.dumps(described.model_json_schema(), indent=1))
