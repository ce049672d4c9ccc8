"""Who is working on a study right now, in the terminal."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from dtme_search.cli.screen import Screen
from dtme_search.cli.tables import print_table
from dtme_search.search.trial.events import duration

if TYPE_CHECKING:
    from dtme_search.search import LoadedStudy

_COLUMNS = ("command", "host", "process", "since", "doing", "step", "silent for")


def print_work(screen: Screen, study: LoadedStudy) -> bool:
    """Print the processes working on a study, with activity and silence; returns whether there are any."""
    from dtme_search.search import at_work

    working = at_work(study.records.engine, study.name)
    rows = [
        (
            each.row.command,
            each.row.host,
            str(each.row.pid),
            _moment(each.row.started_at),
            each.row.doing,
            "" if each.row.total_steps is None else f"{each.row.step}/{each.row.total_steps}",
            duration(max(0.0, each.silent)),
        )
        for each in working
    ]
    if rows:
        print_table(screen.console, "At work now", _COLUMNS, rows)
        screen.line("")
    return bool(rows)


def _moment(when: datetime) -> str:
    local = when.astimezone()
    return f"{local:%H:%M}" if local.date() == datetime.now().astimezone().date() else f"{local:%m-%d %H:%M}"
