"""Commands around a study: run it, take the best out, see what there is."""

import sys
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dtme_search.cli import options
from dtme_search.cli.app import app, screen_of, was_given
from dtme_search.cli.arguments import WARM_START_STORAGE
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


@app.command(epilog="Example:  dtme-search optimize --study nyud --data-root /data/NYUDv2 --trials 64")
def optimize(
    context: typer.Context,
    study: options.Study,
    storage: options.Storage = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Finished trials to reach, over all runs.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0, help="Stop after this many seconds, with a checkpoint."),
    ] = None,
    device: options.Device = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="Trials at once, each in a process. Default: one per GPU; without one, per core, at most 4.",
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option("--devices", metavar="0,1,...", help="GPUs of the workers, or cpu. Default: all."),
    ] = None,
    trials_per_device: Annotated[
        int, typer.Option("--trials-per-device", min=1, help="Workers that share a GPU.")
    ] = 1,
    engine: Annotated[
        Engine, typer.Option("--engine", help="What runs several workers: this machine, or a Dask cluster.")
    ] = Engine.local,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="ADDRESS",
            help="With --engine dask: a cluster that is there, for example tcp://host:8786, or its scheduler "
            "file. Default: one of this machine.",
        ),
    ] = None,
    data_root: options.DataRoot = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
    set_: options.Set = None,
    reuse: Annotated[
        bool, typer.Option("--reuse/--no-reuse", help="Share work between trials, as the study says.")
    ] = True,
    warm_start_from: Annotated[
        str | None,
        typer.Option(
            "--warm-start-from",
            metavar="STUDY",
            help="Another study whose finished trials the sampler should know; no results of this one.",
        ),
    ] = None,
    warm_start_storage: Annotated[
        str | None,
        typer.Option(
            "--warm-start-storage",
            envvar=WARM_START_STORAGE,
            show_envvar=True,
            metavar="URL",
            help="Its database. Default: as for this study.",
        ),
    ] = None,
    callback: options.Callbacks = None,
) -> None:
    """Run a study, or go on with it where it stopped.

    Trains the single-task baselines that are missing, then trials until the study has its total. Ctrl-C
    stops at the next step with a checkpoint, twice stops at once; the same command goes on.
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
            callbacks=options.callbacks_of(callback),
        )
    write_page(loaded)
    print_study(screen, loaded)
    if loaded.stopped:
        screen.say("Stopped. The same command goes on from the last checkpoint.")
        raise typer.Exit(130)


@app.command(epilog="Example:  dtme-search worker --study nyud --storage postgresql://user@host/studies")
def worker(
    context: typer.Context,
    study: options.Study,
    storage: options.Storage = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0, help="Leave after this many seconds, with a checkpoint."),
    ] = None,
    device: options.Device = None,
    data_root: options.DataRoot = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
    launcher: Annotated[
        int | None, typer.Option("--launcher", hidden=True, help="Process that started it.")
    ] = None,
    callback: options.Callbacks = None,
) -> None:
    """Join a study, from this machine or another.

    Runs trials beside the study's other workers until none is left to begin. Config, search space and
    total are those of the last `optimize`. Ctrl-C or SIGTERM hands the trial in hand back with a checkpoint.
    """
    from dtme_search.cli.progress import listening
    from dtme_search.reporting import draw_trial
    from dtme_search.search import Reporter, join

    screen = screen_of(context)
    again = "Whoever works on the study goes on from the last checkpoint."
    with stoppable(again), ExitStack() as shown:
        listener = shown.enter_context(listening(screen)) if launcher is None else Reporter(sys.stdout)
        loaded = join(
            study,
            storage=storage,
            timeout=timeout,
            device=device,
            data_root=data_root,
            workdir=workdir,
            listener=listener,
            draw=draw_trial,
            launcher=launcher,
            callbacks=options.callbacks_of(callback),
        )
    if loaded.stopped:
        typer.echo(f"dtme-search: stopped. {again}", err=True)
        raise typer.Exit(130)
    if launcher is None:
        screen.say(f"No trial of {loaded.name} is left to begin.")


@app.command(epilog="Example:  dtme-search doctor --study nyud --data-root /data/NYUDv2")
def doctor(
    context: typer.Context,
    study: Annotated[
        str | None, typer.Option("--study", "-s", help="Check what this study needs, too.")
    ] = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Remove rows of studies that are gone and files of no trial."),
    ] = False,
    storage: options.Storage = None,
    data_root: options.DataRoot = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Check whether a search can run here.

    Versions, devices, database, clock, disk, folders, data, leftovers: one line each. Changes nothing
    without --repair. The exit code is 0 if it can, 2 if there is a problem.
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


@app.command(epilog="Example:  dtme-search baseline --study demo")
def baseline(
    context: typer.Context,
    study: options.Study,
    storage: options.Storage = None,
    device: options.Device = None,
    data_root: options.DataRoot = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
    set_: options.Set = None,
) -> None:
    """Train the single-task baselines of a study.

    Only those that are missing in the database are trained; all of them are printed.
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
            data_root=data_root,
            workdir=workdir,
            overrides=tuple(set_ or ()),
            listener=listener,
        )
    print_baselines(screen, rows.values())


@app.command(epilog="Example:  dtme-search confirm --study demo --top 3 --seeds 3")
def confirm(
    context: typer.Context,
    study: options.Study,
    top: Annotated[
        int, typer.Option("--top", min=1, help="Leaders to repeat: the front first, then by delta_m.")
    ] = 3,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Further seeds of each, with those it already has.")
    ] = 3,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines",
            help="Single-task baselines of each seed; without, gains over the unexpanded network are enough.",
        ),
    ] = True,
    storage: options.Storage = None,
    device: options.Device = None,
    data_root: options.DataRoot = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Repeat the leaders of a study with further seeds.

    Each repeat trains what `export` would write, against single-task baselines of the same seed. The
    unexpanded trial is repeated too: the gain over it, seed by seed, is nearly free of the noise between
    seeds and needs no new baselines. Mean and standard deviation leave out the seed of the search, whose
    value was chosen for being high. Ctrl-C stops with a checkpoint; the same command does what is missing.
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
            data_root=data_root,
            workdir=workdir,
            listener=listener,
        )
    write_page(loaded)
    print_confirmed(screen, loaded)
    screen.say(best_in_words(loaded, best_trial(loaded)))


@app.command(epilog="Example:  dtme-search export --study demo --best --out best.yaml")
def export(
    context: typer.Context,
    study: options.Study,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write; a folder with --pareto.")],
    best: Annotated[bool, typer.Option("--best", help="The best feasible trial (the default).")] = False,
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="This trial.")] = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="Every trial of the front.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also what should not be trusted.")] = False,
    storage: options.Storage = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Write the config of a trial for `dtme-search train`.

    The plan that the trial found is written out, so the file trains the same network anywhere.
    """
    from dtme_search.reporting import export_best, export_front, export_trial
    from dtme_search.search import load_study

    if best + (trial is not None) + pareto > 1:
        raise ConfigError("export: --best, --trial and --pareto exclude each other; give one.")
    loaded = load_study(study, storage=storage, workdir=workdir)
    if pareto:
        paths = export_front(loaded, out, force=force)
    elif trial is not None:
        paths = [export_trial(loaded, trial, out, force=force)]
    else:
        paths = [export_best(loaded, out, force=force)]
    for path in paths:
        screen_of(context).line(str(path))


@app.command(epilog="Example:  dtme-search studies")
def studies(
    context: typer.Context,
    storage: options.Storage = None,
    workdir: Annotated[
        Path | None, typer.Option("--workdir", help="List the studies that were begun in this folder.")
    ] = None,
) -> None:
    """List studies and configs, or studies that were begun.

    With --workdir or --storage those of that folder or database: how far they are and what they take.
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


@app.command(epilog="Example:  dtme-search schema study > study.schema.json")
def schema(
    of: Annotated[
        SchemaOf, typer.Argument(help="What the YAML is; reference: all fields to read, as Markdown.")
    ] = SchemaOf.study,
) -> None:
    """Print the JSON schema of a study or a config.

    With it an editor completes and checks the YAML.
    """
    import json

    from dtme_search.config import RunConfig, StudyConfig
    from dtme_search.config.reference import reference

    if of is SchemaOf.reference:
        typer.echo(reference(), nl=False)
        return
    described = StudyConfig if of is SchemaOf.study else RunConfig
    typer.echo(json.dumps(described.model_json_schema(), indent=1))
