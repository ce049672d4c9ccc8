"""The command that exports a trained network from this program."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dtme_search.cli.app import screen_of, was_given
from dtme_search.cli.on_demand import commands
from dtme_search.cli.training import find_checkpoint, run_config_of
from dtme_search.errors import ConfigError

if TYPE_CHECKING:
    from dtme_search.deploy.files import FileKind


class FileForm(StrEnum):
    """Formats of a deployed network."""

    onnx = "onnx"
    torch = "torch"
    hub = "hub-folder"


_KINDS: "dict[str, FileKind]" = {".onnx": "onnx", ".pt2": "torch"}
_OF_FILES = ("tasks", "raw", "images", "tolerance")
"""Options that a folder has no use for: it holds the whole network as it was trained."""


@commands.command(epilog="Example:  dtme-search deploy dtme-runs/train/best-1a2b3c4d --out best.onnx")
def deploy(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or the folder of its run.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="To write: NAME.onnx, NAME.pt2 (torch), or a folder (hub-folder)."),
    ],
    to: Annotated[
        FileForm | None, typer.Option("--to", help="Format. Default: from the ending of --out.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Export only these tasks, separated by commas.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Return raw decoder outputs instead of classes, metres and normals.")
    ] = False,
    images: Annotated[
        list[Path] | None,
        typer.Option("--images", help="Picture to compare on; may be repeated. Default: random pictures."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0.0, help="Largest accepted difference from PyTorch.")
    ] = 1e-4,
    licence: Annotated[
        str | None,
        typer.Option("--license", help="With hub-folder: licence for the model card, for example mit."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file, or the files of an older folder.")
    ] = False,
) -> None:
    """Write a trained network as an ONNX or torch file, or for a hub.

    The file runs without dtme-search: it takes a batch of RGB images (uint8, any number, at the image size of
    the run), normalises them and returns the predictions of the tasks. It is kept only if it agrees with
    PyTorch. ONNX needs pip install 'dtme-search[onnx]'.

    The folder (--to hub-folder) holds the weights as safetensors, config, tasks, a model card, and where
    possible the backbone for timm. predict and evaluate take it like the folder of a run.
    """
    from dtme_search.cli.tables import print_table

    if to is FileForm.hub:
        _publish(context, checkpoint, out, licence, force)
        return
    if licence is not None:
        raise ConfigError(f"--license needs --to hub-folder, got {licence} without it.")
    kinds = {ending: kind for ending, kind in _KINDS.items() if to is None or to.value == kind}
    kind = kinds.get(out.suffix)
    if kind is None:
        folder = " A folder for a model hub needs --to hub-folder." if to is None else ""
        raise ConfigError(f"--out must end in {' or '.join(kinds)}, got {out}.{folder}")
    if out.exists() and not force:
        raise ConfigError(f"--out: {out} exists already. Give another name, or --force to replace it.")
    path = find_checkpoint(checkpoint)

    from dtme_search.deploy import deploy_run
    from dtme_search.deploy.files import IR_VERSION, OPSET

    made = deploy_run(
        path,
        run_config_of(path),
        out,
        kind,
        tasks=None if tasks is None else [task.strip() for task in tasks.split(",")],
        form="raw" if raw else "labels",
        pictures=images or (),
        tolerance=tolerance,
    )
    screen, held = screen_of(context), made.description
    height, width = held.image_size
    names = ", ".join(spec.name for spec in held.specs)
    size = f"{out.stat().st_size / 2**20:.1f} MB"
    screen.line(f"Written: {out}, {size}: {names}, images of {height}x{width}")
    if kind == "onnx":
        screen.say(f"ONNX opset {OPSET}, format {IR_VERSION}: for ONNX Runtime 1.18 and newer")
    on = "your pictures" if images else "random pictures (use --images for your own)"
    screen.say(f"Largest difference from PyTorch on {on}: {made.comparison.worst:.2g}")
    print_table(
        screen.console,
        "One image on the CPU",
        ["network", "parameters", "ms", "quartiles"],
        [
            [
                entry.name,
                f"{entry.parameters:,}",
                f"{1000 * entry.speed.median:.1f}",
                f"{1000 * entry.speed.low:.1f} to {1000 * entry.speed.high:.1f}",
            ]
            for entry in made.entries
        ],
    )


def _publish(context: typer.Context, checkpoint: Path, out: Path, licence: str | None, force: bool) -> None:
    given = [name for name in _OF_FILES if was_given(context, name)]
    if given:
        raise ConfigError(f"--{given[0]} is for files, got it with --to hub-folder. Leave it out.")
    path = find_checkpoint(checkpoint)

    from dtme_search.deploy import publish_run

    files = publish_run(path, run_config_of(path), out, licence=licence, replace=force)
    screen = screen_of(context)
    screen.line(f"Written: {out}: {', '.join(files)}")
    screen.say("The network was read again from it and gives the same outputs.")
    if licence is None:
        screen.say(f"Say in {out / 'README.md'} under which licence others may use it, or give --license.")
