"""Commands that show a study: in the terminal, in the browser, as a file."""

import os
import warnings
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dtme_search.cli import options
from dtme_search.cli.app import screen_of
from dtme_search.cli.on_demand import commands
from dtme_search.errors import ConfigError

_ALL_DIGITS = 15
"""Of a float that pandas writes to JSON; a csv has all of them anyway."""


class TableFormat(StrEnum):
    """Output formats of a table."""

    table = "table"
    csv = "csv"
    json = "json"


class ReportForm(StrEnum):
    """Output formats of a report."""

    html = "html"
    md = "md"


@commands.command(epilog="Example:  dtme-search show --study demo --format csv > trials.csv")
def show(
    context: typer.Context,
    study: options.Study,
    format_: Annotated[
        TableFormat, typer.Option("--format", help="table: a summary; csv or json: every trial.")
    ] = TableFormat.table,
    storage: options.Storage = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Show the front, the best trial and the failures."""
    from dtme_search.cli.render import print_study
    from dtme_search.reporting import trials_table, whole_counts
    from dtme_search.search import load_study

    loaded = load_study(study, storage=storage, workdir=workdir)
    if format_ is TableFormat.table:
        print_study(screen_of(context), loaded)
    elif format_ is TableFormat.csv:
        typer.echo(whole_counts(trials_table(loaded)).to_csv(index=False), nl=False)
    else:
        table = whole_counts(trials_table(loaded))
        typer.echo(table.to_json(orient="records", indent=1, double_precision=_ALL_DIGITS))


@commands.command(epilog="Example:  dtme-search report --study demo --out report.html")
def report(
    context: typer.Context,
    study: options.Study,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    format_: Annotated[
        ReportForm | None, typer.Option("--format", help="Default: md if --out ends in .md, else html.")
    ] = None,
    storage: options.Storage = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Write a report on a study as one file to share.

    Holds the findings in plain sentences, figures, tables by task, versions, and the commands to repeat it.
    The HTML file needs no network.
    """
    from dtme_search.reporting import write_report
    from dtme_search.search import load_study

    loaded = load_study(study, storage=storage, workdir=workdir)
    screen_of(context).line(str(write_report(loaded, out, format_.value if format_ else None)))


@commands.command(epilog="Example:  dtme-search dashboard --study demo --port 8080")
def dashboard(
    context: typer.Context,
    study: options.Study,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; any other than 127.0.0.1 requires a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 8080,
    token: Annotated[bool, typer.Option("--token", help="Require a token on 127.0.0.1 too.")] = False,
    writable: Annotated[
        bool, typer.Option("--writable", help="Allow changes and deletions from the page; only on 127.0.0.1.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="Allow this further host name; may be repeated."),
    ] = None,
    storage: options.Storage = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Serve a study's figures, notes and files to a browser.

    By default only this machine can connect, and the page is read-only. DTME_DASHBOARD_TOKEN sets the token;
    without it a new one is generated.
    """
    import secrets

    from dtme_search.reporting import Access, make_server, write_page
    from dtme_search.search import Workspace, load_study, put_right
    from dtme_search.search.storage.optuna_internals import id_of_study

    access = Access(host, port, writable=writable, names=tuple(allow_host or ()))
    if writable and not access.is_local:
        raise ConfigError(f"--writable must go with --host 127.0.0.1, got {host}. Leave one of them out.")
    secret = os.environ.get("DTME_DASHBOARD_TOKEN") or (
        secrets.token_urlsafe(24) if token or not access.is_local else None
    )
    access = replace(access, token=secret)
    loaded = load_study(study, storage=storage, workdir=workdir)
    put_right(loaded.optuna, Workspace.of_study(workdir, loaded.name), loaded.records)
    write_page(loaded)
    try:
        server = make_server(loaded, workdir, access)
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port}: {error.strerror}. Give another --port or --host."
        ) from error
    screen = screen_of(context)
    number = id_of_study(loaded.optuna)
    query = f"?token={secret}" if secret else ""
    shown = f"[{host}]" if ":" in host else host
    screen.line(f"http://{shown}:{server.server_port}/dashboard/studies/{number}{query}  (Ctrl-C to stop)")
    with server, suppress(KeyboardInterrupt), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what others compute for the page
        server.serve_forever()
