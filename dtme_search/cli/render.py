"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from dtme_search.reporting import Frame
    from dtme_search.search import FinalResult, LoadedStudy

_HEADINGS = {
    "delta_m_percent": "delta_m",
    "param_overhead_percent": "overhead",
    "step_cost_ratio": "step cost",
}
_DECIMALS = {
    "delta_m_percent": 2,
    "param_overhead_percent": 3,
    "step_cost_ratio": 2,
    "seconds": 0,
    "start": 2,
}


def print_rows(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table of texts."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_frame(console: Console, title: str, frame: Frame) -> None:
    """A DataFrame, numbers right-aligned and rounded for reading."""
    table = Table(
        title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for column in frame.columns:
        numeric = frame[column].dtype.kind in "fiu"
        table.add_column(_heading(column), justify="right" if numeric else "left")
    for row in frame.to_dict("records"):
        table.add_row(*(_cell(str(column), value) for column, value in row.items()))
    console.print(table)


def print_study(console: Console, study: LoadedStudy) -> None:
    """Front, best, counts by state, failures, and the next commands to type."""
    from dtme_search.errors import ExportError
    from dtme_search.reporting import LEGEND, best_trial, failed_table, front_table, trials_table

    trials = trials_table(study)
    if trials.empty:
        console.print(f"Study {study.name} has no trials yet.")
        return
    counts = ", ".join(f"{count} {state}" for state, count in trials["state"].value_counts().items())
    console.print(f"Study {study.name}: {counts}; {study.config.trials} wanted.")
    front = front_table(study)
    if not front.empty:
        goal = " and ".join(f"{name} ({direction})" for name, direction in study.config.objectives.items())
        shown = front.drop(columns=["state", "feasible", "seconds", "dead_tasks"])
        print_frame(console, f"Front: {goal}", shown)
        for row in front[front["dead_tasks"] != ""].to_dict("records"):
            tasks = str(row["dead_tasks"]).replace(",", ", ")
            console.print(
                f"Trial {row['trial']} is not to be trusted, no better than without the image: {tasks}.",
                style="red",
                highlight=False,
            )
        console.print(
            f"Gains and overhead in percent, step cost in unexpanded steps. {LEGEND}",
            style="dim",
            highlight=False,
        )
    failed = failed_table(study)
    if not failed.empty:
        print_frame(console, "Failed", failed.drop(columns=["state"]))
    try:
        best = best_trial(study)
    except ExportError as error:
        console.print(str(error))
        return
    row = trials[trials["trial"] == best].iloc[0]
    console.print(
        f"Best: trial {best}, delta_m {row['delta_m_percent']:+.2f} % on the hold-out, one seed: "
        "differences of about a point may be noise.",
        highlight=False,
    )
    console.print(
        "Next:\n"
        f"  dtme-search export --study {study.name} --best --out best.yaml\n"
        "  dtme-search train best.yaml\n"
        f"  dtme-search dashboard --study {study.name}",
        highlight=False,
    )


def print_final(console: Console, result: FinalResult) -> None:
    """Metrics of a final training or an evaluation, with delta_m where baselines are known."""
    columns = ["task", "metric", "value"] + (
        ["baseline", "gain %", "no-image prior"] if result.baselines else []
    )
    rows = []
    for name, value in result.metrics.items():
        spec = result.specs[name]
        derived = f" (labels derived from {spec.derived_from})" if spec.derived_from else ""
        row = [name + derived, spec.metric, spec.display(value)]
        if result.baselines:
            base = result.baselines.get(name)
            known = base is not None
            row += [
                spec.display(base.value) if base else "auxiliary",
                f"{result.gains_percent[name]:+.2f}" if known else "",
                spec.display(base.prior_value) if base else "",
            ]
        rows.append(row)
    print_rows(console, f"{result.split} split, {result.num_images} images", columns, rows)
    if result.delta_m_percent is not None:
        console.print(
            f"delta_m {result.delta_m_percent:+.2f} % on the {result.split} split, against single-task "
            "baselines trained on the same ids with the same recipe; one seed.",
            highlight=False,
        )
    if result.dead_tasks:
        console.print(
            f"Not to be trusted: {', '.join(result.dead_tasks)} does not clearly beat the no-image prior.",
            style="bold red",
        )


def print_mapping(console: Console, title: str, values: Mapping[str, Any]) -> None:
    """Key and value, a line each."""
    print_rows(console, title, ["what", "value"], [(key, str(value)) for key, value in values.items()])


def _heading(column: object) -> str:
    name = str(column)
    if name.startswith("gain_"):
        return name.removeprefix("gain_").removesuffix("_percent")
    return _HEADINGS.get(name, name.replace("_", " "))


def _cell(column: str, value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        sign = "+" if column == "delta_m_percent" or column.startswith("gain_") else ""
        return f"{value:{sign}.{_DECIMALS.get(column, 1)}f}"
    return str(value)
