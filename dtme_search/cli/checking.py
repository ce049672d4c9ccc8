"""``dtme-search data check``: read everything once and say what is there."""

from __future__ import annotations

from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dtme_search.cli.render import print_table
from dtme_search.cli.screen import Screen
from dtme_search.config import DataConfig, RunConfig, validate
from dtme_search.config.files import apply_overrides
from dtme_search.data import CheckReport, build_dataset, check_dataset

_TITLES = {"splits": "Samples", "sizes": "Image sizes", "values": "Labels", "classes": "Classes"}


def check_and_print(screen: Screen, name: str, data_root: str | None, overrides: tuple[str, ...]) -> int:
    """Check a data set and print the report; gives the number of missing or broken files."""
    values = apply_overrides({"data": {"name": name, "root": data_root}}, overrides)
    config: DataConfig = validate(RunConfig, values, "data check").data
    dataset = build_dataset(config, require_complete=False)
    bars = Progress(
        TextColumn("reading"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=screen.console,
        transient=True,
        disable=not screen.is_live,
    )
    with bars:
        bar = bars.add_task("reading", total=None)
        report = check_dataset(
            dataset, on_progress=lambda done, total: bars.update(bar, completed=done, total=total)
        )
    _print_report(screen, report)
    return len(report.problems)


def _print_report(screen: Screen, report: CheckReport) -> None:
    tables = report.tables()
    for key, title in _TITLES.items():
        if rows := tables[key]:
            # A column in which nothing stands says nothing.
            columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
            print_table(
                screen.console,
                title,
                [column.replace("_", " ") for column in columns],
                [[_text(row[column]) for column in columns] for row in rows],
            )
            screen.line("")
    for problem in report.problems:
        screen.line(f"{problem.split} {problem.sample_id}: {problem.message}", style="red")
    if report.ok:
        screen.say("Every file was read.")


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
