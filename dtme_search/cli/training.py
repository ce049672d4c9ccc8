"""Commands for a single config: train it, measure it, look at its conflicts."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dtme_search.cli import options
from dtme_search.cli.app import screen_of
from dtme_search.cli.on_demand import commands
from dtme_search.cli.screen import stoppable
from dtme_search.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from dtme_search.config import RunConfig
    from dtme_search.data import TaskData
    from dtme_search.models import MultiTaskViT

Config = Annotated[str, typer.Argument(help="A name from configs/, or a YAML file such as an exported one.")]


class MeasuredOn(StrEnum):
    """Splits that a checkpoint can be measured on."""

    test = "test"
    holdout = "holdout"


class Printed(StrEnum):
    """Output formats of a result."""

    table = "table"
    json = "json"


@commands.command(epilog="Example:  dtme-search train best.yaml --data-root /data/NYUDv2")
def train(
    context: typer.Context,
    config: Config,
    baselines: Annotated[
        bool, typer.Option(help="Also train single-task baselines on the same ids; delta_m needs them.")
    ] = True,
    storage: options.Storage = None,
    device: options.Device = None,
    devices_per_trial: options.DevicesPerTrial = 1,
    data_root: options.DataRoot = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
    set_: options.Set = None,
) -> None:
    """Train a config on all training ids, then test it.

    Reports the metrics on the test split. Ctrl-C saves a checkpoint and stops; run the same command again
    to resume.
    """
    from dtme_search.cli.progress import listening
    from dtme_search.cli.render import print_final
    from dtme_search.search import train_final

    screen = screen_of(context)
    run_config = _run_config(config, data_root, set_)
    with stoppable(), listening(screen) as listener:
        result = train_final(
            run_config,
            Path(config).stem,
            workdir=workdir,
            device=device,
            devices_per_trial=devices_per_trial,
            storage=storage,
            with_baselines=baselines,
            listener=listener,
        )
    print_final(screen, result)
    screen.line(f"Checkpoint: {result.folder / 'checkpoint.pt'}")


@commands.command(epilog="Example:  dtme-search evaluate dtme-runs/train/best-1a2b3c4d --format json")
def evaluate(
    context: typer.Context,
    checkpoint: Annotated[
        Path | None, typer.Argument(help="A checkpoint, or the folder of its run; left out with --study.")
    ] = None,
    study: options.StudyOfTrial = None,
    trial: options.TrainedTrial = None,
    split: Annotated[
        MeasuredOn | None,
        typer.Option("--split", help="Split to measure on. Default: test; the hold-out for a trial."),
    ] = None,
    format_: Annotated[Printed, typer.Option("--format", help="How to print it.")] = Printed.table,
    per_image: Annotated[
        Path | None, typer.Option("--per-image", help="csv to write: metrics of each image alone, by id.")
    ] = None,
    save_panels: Annotated[
        int, typer.Option("--save-panels", min=0, help="Draw labels and predictions for this many images.")
    ] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the panels.")] = Path("panels"),
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    device: options.Device = None,
    data_root: options.DataRoot = None,
    set_: options.Set = None,
    storage: options.Storage = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Measure a trained network on the test split or the hold-out.

    Gains, delta_m and priors are shown where baselines are known that were measured in the same way. A study
    keeps the trained networks of its front (keep_weights); they were trained without the hold-out.
    """
    from dtme_search.cli.progress import TerminalListener
    from dtme_search.cli.render import final_as_json, print_final
    from dtme_search.data import build_dataset, split_ids
    from dtme_search.reporting import save_split_panels, split_panels
    from dtme_search.reporting.targets import refuse_existing, refuse_foreign, save_metrics_of_images
    from dtme_search.search import evaluate_checkpoint
    from dtme_search.training import evaluate_each

    trained = options.trained_trial(study, trial, storage, workdir)
    if (checkpoint is None) == (trained is None):
        raise ConfigError("evaluate: give a checkpoint, or --study and --trial.")
    path = find_checkpoint(trained.path if trained else checkpoint or Path())
    run_config = run_config_of(path, set_).with_data_root(data_root)
    on = split or (MeasuredOn.holdout if trained else MeasuredOn.test)
    if per_image is not None and not force:
        refuse_existing([per_image])
    saved: list[Path] = []
    if save_panels:
        splits = split_ids(build_dataset(run_config.data), run_config.data, final=on is MeasuredOn.test)
        saved = split_panels(splits.ids(on.value), on.value, save_panels, out)
    for file in () if force else saved:
        refuse_foreign(file, "Give --out another folder, or --force to replace it")
    screen = screen_of(context)

    def look(model: "MultiTaskViT", data: "TaskData") -> None:
        if per_image is not None:
            each = evaluate_each(model, data, on.value, run_config.train)
            save_metrics_of_images(per_image, tuple(data.specs), each)
        save_split_panels(model, run_config, data, on.value, saved, force=True)

    with stoppable("Nothing was written."), TerminalListener(screen) as listener:
        result = evaluate_checkpoint(
            run_config, path, on.value, device=device, listener=listener, look=look, trained=trained
        )
    if format_ is Printed.json:
        screen.line(final_as_json(result))
        return
    print_final(screen, result)
    if saved:
        screen.line(f"Written: {len(saved)} panels in {out}")
    if per_image is not None:
        screen.line(f"Written: {per_image}")


@commands.command(epilog="Example:  dtme-search conflicts demo --set expansion.start=0.25 --out conflicts")
def conflicts(
    context: typer.Context,
    config: Config,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the picture and the report.")] = Path(
        "conflicts"
    ),
    device: options.Device = None,
    data_root: options.DataRoot = None,
    set_: options.Set = None,
) -> None:
    """Measure where the tasks of a config conflict.

    Trains to the expansion step, measures conflicts there, prints a table by layer and draws a heat map.
    """
    from dtme_search.cli.progress import listening
    from dtme_search.models import check_model
    from dtme_search.reporting import conflict_heat_map, save_png
    from dtme_search.reporting.targets import refuse_existing, refuse_foreign
    from dtme_search.search.data_shelf import DataShelf
    from dtme_search.training import Callbacks, conflicts_at_expansion, pick_device
    from dtme_search.training.image_size import with_image_size

    run_config = with_image_size(_run_config(config, data_root, set_))
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out must be a folder, got the file {out}.")
    refuse_foreign(out / "conflicts.png")
    if not (out / "conflicts.png").exists():
        refuse_existing([out / "conflicts.json"])
    screen = screen_of(context)
    with stoppable("Nothing was written."), listening(screen) as listener:
        shelf = DataShelf(pick_device(device), on_progress=listener.data_reading)
        check_model(run_config.model, run_config.data.image_size, plugins=run_config.plugins)
        data = shelf.get(run_config)
        report, plan = conflicts_at_expansion(run_config, data, Callbacks(on_progress=listener.progress))
    out.mkdir(parents=True, exist_ok=True)
    report.save(out / "conflicts.json")
    save_png(conflict_heat_map(report), out / "conflicts.png")
    screen.line(report.table())
    screen.line("")
    screen.say(report.summary())
    screen.line("\nPlan with the settings of this config:")
    screen.line(plan.table())
    screen.line(f"\nWritten: {out / 'conflicts.png'} and {out / 'conflicts.json'}")


def _run_config(config: str, data_root: str | None, set_: list[str] | None) -> "RunConfig":
    from dtme_search.config import load_run_config

    return load_run_config(config, tuple(set_ or ())).with_data_root(data_root)


def run_config_of(checkpoint: Path, set_: list[str] | None = None) -> "RunConfig":
    """Config of the run that a checkpoint belongs to."""
    from dtme_search.training import config_beside

    return config_beside(checkpoint, tuple(set_ or ()))


def find_checkpoint(place: Path) -> Path:
    """The checkpoint that a path, or the folder of a run, refers to.

    Raises:
        TrainingError: If there is none, or its config is missing.
    """
    from dtme_search.training.disk import WEIGHTS
    from dtme_search.training.published import PUBLISHED

    path = place
    if place.is_dir():
        files = tuple(place / name for name in ("checkpoint.pt", WEIGHTS, PUBLISHED))
        path = next((file for file in files if file.is_file()), files[0])
    if not path.is_file():
        below = sorted(found.parent for found in place.glob("*/checkpoint.pt"))
        hint = f"Did you mean {below[0]}?" if below else "`dtme-search train` writes one."
        raise TrainingError(f"{path}: no such checkpoint. {hint}")
    if not path.with_name("config.yaml").is_file():
        raise TrainingError(f"{path}: its config.yaml must be beside it, got none. Give the folder of a run.")
    return path
