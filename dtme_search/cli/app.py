"""The program and what all its commands share: flags, logging, where they print."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, cast

import typer

from dtme_search.cli.arguments import MOVED, STORAGE, WARM_START_STORAGE
from dtme_search.cli.on_demand import OnDemandGroup
from dtme_search.cli.screen import NEWS, Screen
from dtme_search.errors import ConfigError
from dtme_search.version import __version__

_MOVABLE = {"storage": STORAGE, "warm_start_storage": WARM_START_STORAGE}

_log = logging.getLogger(__name__)

app = typer.Typer(
    name="dtme-search",
    cls=OnDemandGroup,
    help="Find when and where a multi-task vision transformer should grow task-specific capacity.",
    epilog="A first search, with nothing to download:  dtme-search optimize --study demo",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Help in rich's colours takes twice as long.
    rich_markup_mode=None,
)


def _group(help_: str) -> typer.Typer:
    return typer.Typer(help=help_, no_args_is_help=True, rich_markup_mode=None)


data_app = _group("Check, view and prepare data sets.")
study_app = _group("Rename, clean or delete a study.")
trial_app = _group("Delete trials.")
cache_app = _group("Show or clear what is kept between runs.")


def screen_of(context: typer.Context) -> Screen:
    """Where the current command prints."""
    return cast("Screen", context.obj)


def was_given(context: typer.Context, name: str) -> bool:
    """Whether an option was on the command line, not only in an environment variable shared by commands."""
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
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print debug messages on stderr.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False,
    log_file: Annotated[
        Path | None,
        typer.Option(
            "--log-file",
            metavar="PATH",
            help="Append a log with timestamps to this file, whatever is printed.",
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Set up what the commands share."""
    context.obj = Screen(quiet=quiet)
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    _set_up_logging(level, log_file)
    _log.info("dtme-search %s: %s", __version__, context.invoked_subcommand)


def _set_up_logging(level: int, log_file: Path | None) -> None:
    """Lines of ``level`` and above to stderr; everything to the file, if there is one."""
    logger = logging.getLogger("dtme_search")
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    lines = _LogLines()
    lines.setLevel(level)
    lines.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    lines.addFilter(lambda record: record.name != NEWS.name)
    logger.addHandler(lines)
    logger.setLevel(level)
    NEWS.setLevel(logging.INFO)
    if log_file is not None:
        try:
            file = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--log-file {log_file}: {error.strerror}. Give another file.") from error
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(file)
        logger.setLevel(min(level, logging.INFO))


class _LogLines(logging.Handler):
    """Writes to the current ``sys.stderr``, which is above progress bars while there are any."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")
