"""Commands. Each one reads its options, calls one function and prints what it gives."""

from __future__ import annotations

import json
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from dtme_search.cli import options
from dtme_search.errors import ConfigError, DtmeSearchError

if TYPE_CHECKING:
    from dtme_search.config import RunConfig

app = typer.Typer(
    name="dtme-search",
    help="Find when and where a multi-task vision transformer should grow in token space.",
    epilog="A first search, nothing to download:  dtme-search optimize --study demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Look at data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

console = Console()
_quiet = False


class TableFormat(StrEnum):
    """Forms of a table."""

    table = "table"
    csv = "csv"
    json = "json"


class SchemaOf(StrEnum):
    """What a schema describes."""

    study = "study"
    config = "config"


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, a programming error a traceback."""
    try:
        app(standalone_mode=True)
    except DtmeSearchError as error:
        print(f"dtme-search: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        print("dtme-search: stopped. The same command goes on from the last checkpoint.", file=sys.stderr)  # noqa: T201
        sys.exit(130)


@app.callback()
def common(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors and results.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Set up logging."""
    global _quiet
    _quiet = quiet
    if version:
        from dtme_search import __version__

        console.print(f"dtme-search {__version__}", highlight=False)
        raise typer.Exit
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("dtme_search").setLevel(level)


@app.command(epilog="Example:  dtme-search optimize --study nyud --data-root /data/NYUDv2 --trials 64")
def optimize(
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
    data_root: options.DataRoot = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
    set_: options.Set = None,
) -> None:
    """Search. Run it again and it goes on where it stopped; Ctrl-C once stops with a checkpoint."""
    from dtme_search.cli.progress import TerminalListener
    from dtme_search.cli.render import print_study
    from dtme_search.reporting import draw_trial
    from dtme_search.search import optimize as run

    with TerminalListener(console, quiet=_quiet) as listener:
        loaded = run(
            study,
            storage=storage,
            trials=trials,
            timeout=timeout,
            device=device,
            data_root=data_root,
            workdir=workdir,
            overrides=tuple(set_ or ()),
            listener=listener,
            draw=draw_trial,
        )
    if not _quiet:
        print_study(console, loaded)


@app.command(epilog="Example:  dtme-search baseline --study demo")
def baseline(
    study: options.Study,
    storage: options.Storage = None,
    device: options.Device = None,
    data_root: options.DataRoot = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
    set_: options.Set = None,
) -> None:
    """Train the single-task baselines of a study that are missing, and print all of them."""
    from dtme_search.cli.progress import TerminalListener
    from dtme_search.cli.render import print_rows
    from dtme_search.search import train_baselines

    with TerminalListener(console, quiet=_quiet) as listener:
        rows = train_baselines(
            study,
            storage=storage,
            device=device,
            data_root=data_root,
            workdir=workdir,
            overrides=tuple(set_ or ()),
            listener=listener,
        )
    print_rows(
        console,
        f"Single-task baselines of {study}",
        ["task", "metric", "unit", "value", "no-image prior", "split", "steps"],
        [
            (r.task, r.metric, r.unit, f"{r.value:.4f}", f"{r.prior_value:.4f}", r.split, str(r.num_steps))
            for r in rows.values()
        ],
    )


@app.command(epilog="Example:  dtme-search show --study demo --format csv > trials.csv")
def show(
    study: options.Study,
    format_: Annotated[TableFormat, typer.Option("--format", help="table, csv or json.")] = TableFormat.table,
    storage: options.Storage = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Show the front, the best trial and the failures; as csv or json: all trials."""
    from dtme_search.cli.render import print_study
    from dtme_search.reporting import trials_table
    from dtme_search.search import load_study

    loaded = load_study(study, storage=storage, workdir=workdir)
    if format_ is TableFormat.table:
        print_study(console, loaded)
    elif format_ is TableFormat.csv:
        sys.stdout.write(trials_table(loaded).to_csv(index=False))
    else:
        sys.stdout.write(trials_table(loaded).to_json(orient="records", indent=1) + "\n")


@app.command(epilog="Example:  dtme-search export --study demo --best --out best.yaml")
def export(
    study: options.Study,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write; a folder with --pareto.")],
    best: Annotated[bool, typer.Option("--best", help="The best feasible trial (the default).")] = False,
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="This trial.")] = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="Every trial of the front.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also what should not be trusted.")] = False,
    storage: options.Storage = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Write the config of a trial, its plan resolved, for `dtme-search train`."""
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
        console.print(str(path), highlight=False, soft_wrap=True)


@app.command(epilog="Example:  dtme-search train best.yaml --data-root /data/NYUDv2")
def train(
    config: Annotated[str, typer.Argument(help="A config: an exported file, or a name from configs/.")],
    baselines: Annotated[
        bool, typer.Option(help="Train single-task baselines on the same ids, so that delta_m can be told.")
    ] = True,
    storage: options.Storage = None,
    device: options.Device = None,
    data_root: options.DataRoot = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
    set_: options.Set = None,
) -> None:
    """Final training on all training ids, then the metrics of the test split."""
    from dtme_search.cli.progress import TerminalListener
    from dtme_search.cli.render import print_final
    from dtme_search.search import train_final
    from dtme_search.training import TrainingInterrupted

    run_config = _run_config(config, data_root, set_)
    try:
        with TerminalListener(console, quiet=_quiet) as listener:
            result = train_final(
                run_config,
                Path(config).stem,
                workdir=workdir,
                device=device,
                storage=storage,
                with_baselines=baselines,
                listener=listener,
            )
    except TrainingInterrupted as stopped:
        console.print(f"{stopped}; the same command goes on from there.", highlight=False)
        raise typer.Exit(130) from stopped
    print_final(console, result)
    console.print(f"Checkpoint: {result.folder / 'checkpoint.pt'}", highlight=False, soft_wrap=True)


@app.command(epilog="Example:  dtme-search evaluate dtme-runs/train/best-1a2b3c4d/checkpoint.pt")
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint; its config.yaml lies beside it.")],
    split: Annotated[str, typer.Option("--split", help="test or holdout.")] = "test",
    device: options.Device = None,
    data_root: options.DataRoot = None,
    set_: options.Set = None,
) -> None:
    """Metrics of a checkpoint on the test split or the hold-out."""
    from dtme_search.cli.progress import TerminalListener
    from dtme_search.cli.render import print_final
    from dtme_search.search import evaluate_checkpoint

    if split not in ("test", "holdout"):
        raise ConfigError(f"--split must be test or holdout, got '{split}'.")
    path = checkpoint / "checkpoint.pt" if checkpoint.is_dir() else checkpoint
    beside = path.with_name("config.yaml")
    run_config = _run_config(str(beside), data_root, set_)
    with TerminalListener(console, quiet=_quiet) as listener:
        result = evaluate_checkpoint(
            run_config, path, "test" if split == "test" else "holdout", device=device, listener=listener
        )
    print_final(console, result)


@app.command(epilog="Example:  dtme-search conflicts demo --set expansion.start=0.25 --out conflicts")
def conflicts(
    config: Annotated[str, typer.Argument(help="A config: a name from configs/, or a file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the picture and the report.")] = Path(
        "conflicts"
    ),
    device: options.Device = None,
    data_root: options.DataRoot = None,
    set_: options.Set = None,
) -> None:
    """Train to the expansion step, measure where the tasks conflict, print layers and draw a heat map."""
    from dtme_search.cli.progress import TerminalListener
    from dtme_search.reporting import conflict_heat_map, save_png
    from dtme_search.search.data_shelf import DataShelf
    from dtme_search.training import Callbacks, conflicts_at_expansion, pick_device

    run_config = _run_config(config, data_root, set_)
    with TerminalListener(console, quiet=_quiet) as listener:
        shelf = DataShelf(pick_device(device), on_progress=listener.data_reading)
        data = shelf.get(run_config)
        report, plan = conflicts_at_expansion(run_config, data, Callbacks(on_progress=listener.progress))
    out.mkdir(parents=True, exist_ok=True)
    report.save(out / "conflicts.json")
    save_png(conflict_heat_map(report), out / "conflicts.png")
    console.print(report.table(), markup=False, highlight=False)
    console.print(report.summary(), markup=False, highlight=False)
    console.print("\nPlan with the settings of this config:", highlight=False)
    console.print(plan.table(), markup=False, highlight=False)
    console.print(
        f"Written: {out / 'conflicts.png'} and {out / 'conflicts.json'}", highlight=False, soft_wrap=True
    )


@app.command(epilog="Example:  dtme-search dashboard --study demo --port 8080")
def dashboard(
    study: options.Study,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8080,
    storage: options.Storage = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Serve the optuna-dashboard of a study on 127.0.0.1."""
    from dtme_search.reporting.dashboard import HOST, serve_dashboard
    from dtme_search.search import load_study

    loaded = load_study(study, storage=storage, workdir=workdir)
    console.print(f"http://{HOST}:{port}/  (Ctrl-C ends it)", highlight=False)
    serve_dashboard(loaded, workdir, port)


@app.command(epilog="Example:  dtme-search schema study > study.schema.json")
def schema(
    of: Annotated[SchemaOf, typer.Argument(help="study or config.")] = SchemaOf.study,
) -> None:
    """Print the JSON schema of a study or a config, so that editors complete and check the YAML."""
    from dtme_search.config import RunConfig, StudyConfig

    described = StudyConfig if of is SchemaOf.study else RunConfig
    sys.stdout.write(json.dumps(described.model_json_schema(), indent=1) + "\n")


@app.command(epilog="Example:  dtme-search studies")
def studies() -> None:
    """List the studies and configs that are there."""
    from dtme_search.cli.render import print_rows
    from dtme_search.config import load_study_config, shipped

    rows = []
    for name, path in sorted(shipped("studies").items()):
        try:
            found = load_study_config(str(path))
            rows.append((name, str(found.trials), ", ".join(found.objectives), found.description))
        except ConfigError as error:
            rows.append((name, "", "", f"broken: {error}"))
    print_rows(console, "Studies (optimize --study NAME)", ["study", "trials", "objectives", "what"], rows)
    configs = [(name, str(path)) for name, path in sorted(shipped("configs").items())]
    print_rows(console, "Configs (train NAME, conflicts NAME)", ["config", "file"], configs)


@data_app.command(epilog="Example:  dtme-search data check nyud --data-root /data/NYUDv2")
def check(
    name: Annotated[str, typer.Argument(help="Data set: scenes or nyud.")],
    data_root: options.DataRoot = None,
    set_: options.Set = None,
) -> None:
    """Read every file of a data set once; report counts, sizes, value ranges and what is broken."""
    from dtme_search.cli.checking import check_and_print

    if not check_and_print(console, name, data_root, tuple(set_ or ()), quiet=_quiet):
        raise typer.Exit(2)


def _run_config(config: str, data_root: str | None, set_: list[str] | None) -> RunConfig:
    from dtme_search.config import load_run_config

    overrides = tuple(set_ or ())
    if data_root is not None:
        overrides = (*overrides, f"data.root={data_root}")
    return load_run_config(config, overrides)
