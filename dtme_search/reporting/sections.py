"""Tables and sections that make up the report, the study's note and the trials' notes."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pandas as pd

from dtme_search.config.dotted import value_at
from dtme_search.operations import in_words
from dtme_search.reporting.costs import marked_costs
from dtme_search.reporting.document import Block, Heading, Paragraph, Table
from dtme_search.reporting.legend import front_legend, telling
from dtme_search.reporting.measures import metrics_table, searched_table, without_measures
from dtme_search.reporting.study_data import StudyData, plan_of_run
from dtme_search.reporting.tables import against
from dtme_search.search import BaselineRow, RunRow
from dtme_search.search.storage.studies import stored_base_config
from dtme_search.tasks import display_metric
from dtme_search.token_space import ExpansionPlan
from dtme_search.words import cell, doubted, heading

_HIDDEN = (
    *("state", "feasible", "seconds", "on_front", "error", "reason", "steps_reused", "dead_tasks"),
    "paired_trial",
)


def frame_table(frame: pd.DataFrame) -> Table:
    """A DataFrame as rounded text."""
    rows = [[cell(str(name), value) for name, value in row.items()] for row in frame.to_dict("records")]
    return Table([heading(name) for name in frame.columns], rows)


def front_section(data: StudyData) -> list[Block]:
    """The feasible front, best delta_m first, with its legend."""
    front = data.trials[data.trials["on_front"].astype(bool)].sort_values("delta_m_percent", ascending=False)
    if front.empty:
        return []
    shown = marked_costs(front).drop(columns=[name for name in _HIDDEN if name in front])
    shown = without_measures(shown, data.study)
    shown = telling(shown, data.study)
    return [Heading("Front"), frame_table(shown), Paragraph(front_legend(shown))]


def next_commands(data: StudyData) -> list[str]:
    """Commands to continue with, the search itself first; those that would be refused are left out."""
    place, root = data.study.place, stored_base_config(data.study.optuna).data.root
    where = [] if root is None else ["--data-root", root]
    commands = [place.command("optimize", *where), place.command("report", "--out", "report.html")]
    if data.best is None:
        return commands
    force = ["--force"] if data.best["dead_tasks"] else []
    return [
        *commands,
        place.command("export", "--best", *force, "--out", "best.yaml"),
        place.train("best.yaml"),
    ]


def baseline_section(data: StudyData) -> list[Block]:
    """Single-task baselines beside what a guess that ignores the image reaches."""
    rows = _baseline_rows(data)
    if not rows:
        return []
    # Add the columns in which the baselines of a task differ.
    shown = [path for path in rows[0][1] if len({recipe[path] for _, recipe in rows}) > 1]
    table = [
        (
            row.task,
            f"{row.metric}, {'higher' if row.higher_is_better else 'lower'} is better",
            display_metric(row.value, row.unit),
            display_metric(row.prior_value, row.unit),
            str(row.num_steps),
            str(row.seed),
            *(recipe[path] for path in shown),
        )
        for row, recipe in rows
    ]
    columns = ("task", "metric", "single-task baseline", "no-image prior", "steps", "seed", *shown)
    blocks: list[Block] = [Heading("Baselines"), Table(columns, table)]
    if data.best is not None:
        blocks.append(Paragraph(f"Gains are relative to {against(data.runs[int(data.best['trial'])])}."))
    return blocks


def _baseline_rows(data: StudyData) -> list[tuple[BaselineRow, dict[str, str]]]:
    """Baselines that trials are compared with, by task, with the searched part of their recipes."""
    used = {row.fingerprint: row for rows in data.baselines.values() for row in rows.values()}
    by_task = sorted(used.values(), key=lambda row: data.tasks.index(row.task))
    paths = [path for path in data.config.search if "*" not in path]
    return [
        (row, {path: str(value_at(json.loads(row.config), path, "")) for path in paths}) for row in by_task
    ]


def task_section(data: StudyData) -> list[Block]:
    """Metrics of every task, including auxiliary ones, and what was searched, trials side by side."""
    if not data.compared:
        return []
    columns, rows = metrics_table(data.study, data.compared)
    blocks: list[Block] = [
        Heading("Task by task"),
        Table(columns, rows),
        Paragraph("In brackets: the signed gain over the baseline; positive is better, whatever the metric."),
    ]
    columns, rows = searched_table(data.study, data.trials, data.compared)
    return [*blocks, Heading("Searched parameters"), Table(columns, rows)] if rows else blocks


def trial_note(data: StudyData, number: int) -> list[Block]:
    """What a trial is and its result."""
    row = data.trials[data.trials["trial"] == number].iloc[0]
    run = data.runs.get(number)
    blocks: list[Block] = [Paragraph(_verdict(row, run))]
    if number in data.proposals:
        blocks.append(Paragraph(data.proposals[number]))
    for columns, rows in (
        metrics_table(data.study, [number]),
        searched_table(data.study, data.trials, [number]),
    ):
        blocks += [Table(columns, rows)] if rows else []
    plan = plan_of_run(run) if run is not None else None
    if plan is not None:
        blocks.append(plan_table(plan))
    return blocks


def plan_table(plan: ExpansionPlan) -> Block:
    """The layers of a plan that grow, or one sentence if none does."""
    if plan.is_empty:
        return Paragraph("The network never grows.")
    rows = [
        (
            str(layer),
            plan.operations()[layer],
            *(_groups(plan, plan.groups[name].get(layer, ())) for name in plan.shown),
            str(plan.num_streams(layer)),
        )
        for layer in plan.layers
    ]
    words = (f"{in_words(name)} for" for name in plan.shown)
    return Table(("layer", "operation", *words, "streams"), rows)


def _verdict(row: pd.Series, run: RunRow | None) -> str:
    state = row["state"]
    if state in ("failed", "interrupted"):
        why = f": {row['error']}" if row["error"] else ", a later trial continues it"
        return f"**{state.capitalize()}**{why}."
    if state == "pruned":
        reason = (run and run.reason) or "behind the others"
        return f"**Pruned**: {reason.rstrip('.')}. Layers: {row['layers'] or 'not grown yet'}."
    parts = [f"**delta_m {row['delta_m_percent']:+.2f} %**"]
    if run is not None and run.paired_gain_percent is not None:
        partner = f"the unexpanded network of the same seed (trial {run.paired_trial})"
        parts.append(f"{run.paired_gain_percent:+.2f} points over {partner}")
    if row["on_front"]:
        parts.append("**on the feasible front**")
    if row["feasible"] is False or row["feasible"] == False:  # noqa: E712
        parts.append("**exceeds a limit**")
    parts.append(f"overhead {row['param_overhead_percent']:.3f} %")
    parts.append(f"step cost {row['step_cost_ratio']:.2f}")
    further = run.further_measures if run is not None else {}
    parts += [f"{heading(name)} {cell(name, value)}" for name, value in further.items()]
    if pd.notna(row["start"]):
        parts.append(f"grown after {row['start']:.0%} of the training")
    if run is not None and run.origin_trial is not None:
        parts.append(f"**reused from trial {run.origin_trial}**, which did the same work")
    elif run is not None and run.steps_reused:
        parts.append(f"{run.steps_reused} of {run.total_steps} steps reused from a shared trunk")
    if run is not None and (run.batch_parts or 1) > 1:
        parts.append(f"**short of memory**: each batch was split into {run.batch_parts} parts")
    text = "; ".join(parts) + "."
    if row["dead_tasks"]:
        text += f" **Not to be trusted**: {doubted(row['dead_tasks'])} the no-image prior."
    return text


def _groups(plan: ExpansionPlan, groups: Sequence[Sequence[str]]) -> str:
    if len(groups) == len(plan.tasks) > 1:
        return "each task"
    if len(groups) == 1 and len(groups[0]) == len(plan.tasks) > 1:
        return "all tasks together"
    return ", ".join("+".join(group) for group in groups)
