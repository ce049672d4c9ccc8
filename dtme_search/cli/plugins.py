"""``dtme-search plugins``: parts from outside this program."""

from pathlib import Path
from typing import Annotated

import typer

from dtme_search.cli.app import screen_of
from dtme_search.cli.on_demand import commands


@commands.command(epilog="Example:  dtme-search plugins my_parts.py")
def plugins(
    context: typer.Context,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Python files with parts.")
    ] = None,
) -> None:
    """List parts from your own files and installed packages.

    Packages are not imported; files are run.
    """
    from dtme_search.cli.tables import print_table
    from dtme_search.plugins import FAMILIES, brought

    rows = [
        (FAMILIES[family], one.name, one.package, one.version, one.where)
        for family in FAMILIES
        for one in brought(family, tuple(str(file) for file in files or ()))
    ]
    screen = screen_of(context)
    if not rows:
        screen.say("No package or file offers a part.")
        return
    print_table(screen.console, "Parts from elsewhere", ("part", "name", "from", "version", "where"), rows)
