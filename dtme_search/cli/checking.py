"""``dtme-search data check``: read everything once and say what is there."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dtme_search.cli.render import print_rows
from dtme_search.config import DataConfig, RunConfig, validate
from dtme_search.config.files import apply_overrides
from dtme_search.data import CheckReport, build_dataset, check_dataset

_TITLES = {
    "splits": "Samples",
    "sizes": "Image sizes",
    "values": "Labels",
    "classes": "Classes",
    "problems": "Missing or broken files",
}


def check_and_print(
    console: Console, name: str, data_root: str | None, overrides: tuple[str, ...], *, quiet: bool
) -> bool:
    """Check a data set, print the report, and tell whether every file is whole."""
    values = apply_overrides({"data": {"name": name, "root": data_root}}, overrides)
    config: DataConfig = validate(RunConfig, values, "data check").data
    dataset = build_dataset(config, require_complete=False)
    bars = Progress(
        TextColumn("reading"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    with bars:
        bar = bars.add_task("reading")
        report = check_dataset(
            dataset, on_progress=lambda done, total: bars.update(bar, completed=done, total=total)
        )
    _print_report(console, report)
    return report.ok


def _print_report(console: Console, report: CheckReport) -> None:
    for key, rows in report.tables().items():
        if rows:
            columns = list(rows[0])
            print_rows(
                console,
                _TITLES.get(key, key),
                [column.replace("_", " ") for column in columns],
                [[_text(row[column]) for column in columns] for row in rows],
            )
    count = len(report.problems)
    console.print(
        "Every file was read." if report.ok else f"{count} files are missing or broken.", highlight=False
    )


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
