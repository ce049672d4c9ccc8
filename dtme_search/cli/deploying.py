"""The command that exports a trained network from this program."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dtme_search.cli.app import screen_of
from dtme_search.cli.on_demand import commands
from dtme_search.cli.training import find_checkpoint, run_config_of
from dtme_search.errors import ConfigError


class FileForm(StrEnum):
    """Formats of a deployed network."""

    onnx = "onnx"
    torch = "torch"


_ENDINGS = {".onnx": FileForm.onnx, ".pt2": FileForm.torch}


@commands.command(epilog="Example:  dtme-search deploy dtme-runs/train/best-1a2b3c4d --out best.onnx")
def deploy(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or the folder of its run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: NAME.onnx, or NAME.pt2 (torch).")],
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
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a trained network as one ONNX or torch file.

    The file runs without dtme-search: it takes a batch of RGB images (uint8, any number, at the image size of
    the run), normalises them and returns the predictions of the tasks. It is kept only if it agrees with
    PyTorch. ONNX needs pip install 'dtme-search[onnx]'.
    """
    from dtme_search.cli.tables import print_table

    kind = _ENDINGS.get(out.suffix)
    if kind is None or (to is not None and to is not kind):
        endings = [ending for ending, form in _ENDINGS.items() if to in (None, form)]
        raise ConfigError(f"--out must end in {' or '.join(endings)}, got {out}.")
    if out.exists() and not force:
        raise ConfigError(f"--out: {out} exists already. Give another name, or --force to replace it.")
    path = find_checkpoint(checkpoint)

    from dtme_search.deploy import deploy_run

    made = deploy_run(
        path,
        run_config_of(path),
        out,
        kind.value,
        tasks=None if tasks is None else [task.strip() for task in tasks.split(",")],
        form="raw" if raw else "labels",
        pictures=images or (),
        tolerance=tolerance,
    )
    screen, held = screen_of(context), made.description
    height, width = held.image_size
    names = ", ".join(spec.name for spec in held.specs)
    screen.line(f"Written: {out}, {out.stat().st_size / 2**20:.1f} MB: {names}, images of {height}x{width}")
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
