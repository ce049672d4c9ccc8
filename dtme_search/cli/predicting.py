"""The command that shows what a trained network sees in a user's own pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dtme_search.cli import options
from dtme_search.cli.app import screen_of
from dtme_search.cli.on_demand import commands
from dtme_search.cli.screen import stoppable
from dtme_search.cli.training import find_checkpoint, run_config_of
from dtme_search.errors import ConfigError, DataError

if TYPE_CHECKING:
    from dtme_search.training import Predictor

_DEPLOYED = (".onnx", ".pt2")


@commands.command(epilog="Example:  dtme-search predict --study demo --trial 4 photos --out panels --raw")
def predict(
    context: typer.Context,
    given: Annotated[
        list[Path],
        typer.Argument(
            metavar="[NETWORK] IMAGES...",
            help="The network: a checkpoint, the folder of its run, or a file that `deploy` wrote; omit it "
            "with --study. Then pictures of any size, or folders of them, with subfolders.",
        ),
    ],
    study: options.StudyOfTrial = None,
    trial: options.TrainedTrial = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.")] = Path("panels"),
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="Also write each task at the picture's own size: classes as indexed png, depth as 16-bit "
            "png in mm, labels of the whole image as csv, the rest as npy.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    device: options.Device = None,
    storage: options.Storage = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Draw what a trained network sees in your pictures.

    One PNG for each: the picture and a panel with legend for every task. The data set is not needed. A
    picture that cannot be read is named, and the others are predicted. A study keeps the trained networks of
    its front (keep_weights), so it needs no further training: --study NAME --trial NUMBER.
    """
    from dtme_search.cli.checking import progress_bar
    from dtme_search.reporting import predict_image
    from dtme_search.reporting.rasters import raster_ending
    from dtme_search.reporting.targets import (
        find_pictures,
        output_names,
        refuse_existing,
        refuse_foreign,
    )

    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out must be a folder, got the file {out}.")
    trained = options.trained_trial(study, trial, storage, workdir)
    network, images = (trained.path, given) if trained else (given[0], given[1:])
    if not images:
        raise ConfigError(f"predict: give pictures after the network, got only {network}.")
    pictures = find_pictures(images, out)
    predictor = _predictor(network, device)
    endings = {task: raster_ending(spec) for task, spec in predictor.specs.items()} if raw else {}
    outputs = [
        (out / names.panels, {task: out / name for task, name in names.rasters.items()})
        for names in output_names(pictures, endings)
    ]
    if not force:
        for target, _ in outputs:
            refuse_foreign(target, "Give --out another folder, or --force to replace it")
        refuse_existing([file for _, rasters in outputs for file in rasters.values()])
    screen, failed = screen_of(context), 0
    with stoppable("Panels already written are kept."), progress_bar(screen, "predicting") as on_progress:
        for done, (picture, (target, rasters)) in enumerate(zip(pictures, outputs, strict=True), 1):
            try:
                words: dict[str, str] = {}
                for path in predict_image(
                    predictor, picture, target, rasters=rasters, on_words=words.__setitem__
                ):
                    screen.line(str(path))
                for task, said in words.items():
                    screen.line(f"{picture}: {task}: {said}")
            except DataError as error:
                failed += 1
                typer.echo(f"dtme-search: {error}", err=True)
            on_progress(done, len(pictures))
    if failed:
        raise DataError(f"{failed} of {len(pictures)} pictures could not be read; each is named above.")


def _predictor(network: Path, device: str | None) -> "Predictor":
    from dtme_search.training import Predictor, pick_device, restore_model, specs_beside

    if network.suffix in _DEPLOYED:
        from dtme_search.deploy import open_file

        opened = open_file(network)
        return Predictor(opened.raw, opened.specs, opened.description.image_size)
    path = find_checkpoint(network)
    config, specs, where = run_config_of(path), specs_beside(path), pick_device(device)
    return Predictor.of_model(restore_model(path, config, specs, where), specs, config, where)
