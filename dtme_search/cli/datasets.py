"""Commands for data sets: check one, look at one, convert one to its folder layout."""

from pathlib import Path
from typing import Annotated

import typer

from dtme_search.cli import options
from dtme_search.cli.app import data_app, screen_of
from dtme_search.cli.on_demand import commands
from dtme_search.errors import DataError

_Name = Annotated[
    str,
    typer.Argument(
        metavar="DATASET", help="Name of a data set, such as nyud, or the YAML that describes your own."
    ),
]


@data_app.command(epilog="Example:  dtme-search data check nyud --data-root /data/NYUDv2")
def check(
    context: typer.Context,
    name: _Name,
    data_root: options.DataRoot = None,
    set_: options.Set = None,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Hash every file again, even if its time is unchanged.")
    ] = False,
) -> None:
    """Read every file of a data set once.

    Reports counts, sizes, value ranges, how often each class occurs in the training part and in the hold-out,
    every missing or broken file, ignored files, duplicate photographs, and labels without information.
    """
    from dtme_search.cli.checking import check_and_print

    problems = check_and_print(screen_of(context), name, data_root, tuple(set_ or ()), rehash=rehash)
    if problems:
        raise DataError(f"data set {name}: {problems} files missing or broken; see the list above.")


@data_app.command(epilog="Example:  dtme-search data show scenes --out sheet.png")
def show(
    context: typer.Context,
    name: _Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write.")],
    num_images: Annotated[int, typer.Option("--images", min=1, max=64, help="Images, one per row.")] = 6,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the choice and augmentation.")] = 0,
    data_root: options.DataRoot = None,
    set_: options.Set = None,
) -> None:
    """Draw images and labels after augmentation, as training sees them.

    Change the size and the augmentation with `--set`, for example `--set data.image_size=[448,576]`.
    """
    from dtme_search.cli.checking import show_and_print

    show_and_print(
        screen_of(context), name, out, data_root, tuple(set_ or ()), num_images=num_images, seed=seed
    )


@data_app.command(
    epilog="Example:  dtme-search data prepare nyud --source nyu_depth_v2_labeled.mat --out NYUDv2"
)
def prepare(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="DATASET", help="Name of the data set, for example nyud.")],
    source: Annotated[Path, typer.Option("--source", help="File or folder as published.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; pass it as --data-root afterwards.")],
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Processes. Default: one per core, at most 8.")
    ] = None,
) -> None:
    """Convert a published data set to the expected folder layout.

    Labels that were not published (such as normals and edges of nyud) are derived and marked as derived. If
    it is interrupted, run the same command again to resume.
    """
    from dtme_search.cli.checking import prepare_and_print
    from dtme_search.cli.screen import stoppable

    with stoppable("Run the same command again to resume."):
        prepare_and_print(screen_of(context), name, source, out, jobs)


commands.add_typer(data_app, name="data")
