"""The program and what all its commands share: flags, logging, where they print."""

import logging
import os
import sys
from typing import Annotated, cast

import typer

from dtme_search.cli.arguments import MOVED, STORAGE, WARM_START_STORAGE
from dtme_search.cli.screen import Screen
from dtme_search.version import __version__

_MOVABLE = {"storage": STORAGE, "warm_start_storage": WARM_START_STORAGE}

app = typer.Typer(
    name="dtme-search",
    help="Find when and where a multi-task vision transformer should grow in token space.",
    epilog="A first search, nothing to download:  dtme-search optimize --study demo",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Help in rich's colours takes twice as long.
    rich_markup_mode=None,
)
data_app = typer.Typer(
    help="Look at data sets, and prepare them.", no_args_is_help=True, rich_markup_mode=None
)


def screen_of(context: typer.Context) -> Screen:
    """Where the command in hand prints."""
    return cast("Screen", context.obj)


def was_given(context: typer.Context, name: str) -> bool:
    """Whether an option stood on the command line, not only in a variable, which other commands read too."""
    source = context.get_parameter_source(name)
    is_moved = _MOVABLE.get(name) in os.environ.get(MOVED, "").split()
    return is_moved or (source is not None and source.name == "COMMANDLINE")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dtme-search {__version__}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors and results.")] = False,
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Set up what the commands share."""
    context.obj = Screen(quiet=quiet)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", handlers=[_LogLines()])
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    logging.getLogger("dtme_search").setLevel(level)


class _LogLines(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what ``sys.stderr`` is at that moment: above progress bars while there are any."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stderr)
        super().emit(record)
