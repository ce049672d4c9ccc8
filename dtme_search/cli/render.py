"""Tables and sentences in the terminal, readable at 80 columns."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.text import Text

from dtme_search.cli.screen import Screen
from dtme_search.cli.sketch import front_points, layer_blocks, plot_points
from dtme_search.cli.tables import print_frame, print_table
from dtme_search.cli.working import print_work
from dtme_search.tasks import display_metric
from dtme_search.words import cell, enumerated, heading, numbered

if TYPE_CHECKING:
    from dtme_search.reporting import Frame
    from dtme_search.search import BaselineRow, FinalResult, LoadedStudy

_LAST_ENDED = 5
"""Numbers of pruned and of failed trials that are listed; the tables have them all."""
_MOST_MAPS = 10
_HIDDEN_ON_FRONT = (
    *("state", "feasible", "seconds", "dead_tasks"),
    *("reason", "origin_trial", "steps_reused", "paired_trial"),
)


def print_study(screen: Screen, study: LoadedStudy) -> None:
    """Counts by state, front, failures, best, and the next commands to type."""
    from dtme_search.reporting import trials_table
    from dtme_search.search.study.states import counts_in_words

    trials = trials_table(study)
    states = [] if trials.empty else list(trials["state"])
    screen.say(f"Study {study.name}: {counts_in_words(states, study.config.trials)}.")
    is_running = print_work(screen, study)
    if trials.empty:
        if not is_running:
            print_next(screen, study.place.command("optimize"))
        return
    _print_front(screen, study, trials)
    _print_ended(screen, study, trials)
    screen.line("")
    _print_best(screen, study, trials)


def _print_front(screen: Screen, study: LoadedStudy, trials: Frame) -> None:
    """The front with everything that is known about its trials; nothing if it is empty."""
    from dtme_search.cli.confirmed import CONFIRMED, print_confirmed
    from dtme_search.reporting import (
        cost_doubt,
        front_legend,
        front_table,
        marked_costs,
        telling,
        without_measures,
    )

    front = front_table(study, trials)
    if front.empty:
        return
    goal = " and ".join(
        f"{heading(name)} ({direction})" for name, direction in study.config.objectives.items()
    )
    hidden = [name for name in (*_HIDDEN_ON_FRONT, *CONFIRMED) if name in front]
    shown = telling(without_measures(marked_costs(front).drop(columns=hidden), study), study)
    if "delta_m_base_percent" in shown:  # 80 columns have room for one of the two comparisons
        shown = shown.drop(columns="paired_gain_percent", errors="ignore")
    screen.line("")
    print_frame(screen.console, f"Front: {goal}", shown)
    screen.line("")
    screen.hint(front_legend(shown))
    _print_doubts(screen, front)
    if doubt := cost_doubt(front):
        screen.hint(doubt)
    _print_measures(screen, study, trials, front)
    print_confirmed(screen, study, trials)
    _print_sketches(screen, study, trials, front)


def _print_ended(screen: Screen, study: LoadedStudy, trials: Frame) -> None:
    """The last pruned and failed trials, with the reasons."""
    from dtme_search.reporting import failed_table, pruned_table

    for title, ended in (("Pruned", pruned_table(study)), ("Failed", failed_table(study, trials))):
        if not ended.empty:
            screen.line("")
            many = f", the last {_LAST_ENDED} of {len(ended)}" if len(ended) > _LAST_ENDED else ""
            shown = ended.drop(columns="state", errors="ignore").tail(_LAST_ENDED)
            print_frame(screen.console, title + many, shown)


def _print_best(screen: Screen, study: LoadedStudy, trials: Frame) -> None:
    """The best trial, what sharing saved, and the commands to continue with; or why there is none."""
    from dtme_search.cli.confirmed import best_in_words
    from dtme_search.errors import ExportError
    from dtme_search.reporting import best_trial, threads_in_words

    try:
        best = best_trial(study)
    except ExportError as error:
        screen.line(str(error))
        return
    row = trials[trials["trial"] == best].iloc[0]
    screen.say(best_in_words(study, best))
    for sentence in filter(None, (study.savings().sentence(), threads_in_words(study))):
        screen.hint(sentence, style=None)
    place, force = study.place, ["--force"] if row["dead_tasks"] else []
    confirm = [] if row["num_seeds"] > 0 else [place.command("confirm", "--top", "3", "--seeds", "3")]
    print_next(
        screen,
        *confirm,
        place.command("export", "--best", *force, "--out", "best.yaml"),
        place.train("best.yaml"),
        place.command("dashboard"),
    )


def print_next(screen: Screen, *commands: str) -> None:
    """Commands to type next."""
    if not screen.quiet:
        screen.line("\n".join(["Next:", *(f"  {command}" for command in commands)]))


def print_baselines(screen: Screen, rows: Iterable[BaselineRow]) -> None:
    """Single-task baselines, each with its no-image prior."""
    print_table(
        screen.console,
        "Single-task baselines",
        ("task", "metric", "value", "no-image prior", "split", "steps"),
        [
            (
                row.task,
                row.metric,
                display_metric(row.value, row.unit),
                display_metric(row.prior_value, row.unit),
                row.split,
                str(row.num_steps),
            )
            for row in rows
        ],
    )


def final_as_json(result: FinalResult) -> str:
    """The same as JSON, with unrounded numbers in the units of the tasks."""
    of_task = {
        name: {
            "metric": result.specs[name].metric,
            "unit": result.specs[name].unit,
            "higher_is_better": result.specs[name].higher_is_better,
            "value": value,
            "baseline": result.baselines[name].value if name in result.baselines else None,
            "no_image_prior": result.baselines[name].prior_value if name in result.baselines else None,
            "gain_percent": result.gains_percent.get(name),
            "further": dict(result.extra_metrics.get(name, {})),
        }
        for name, value in result.metrics.items()
    }
    values = {
        "split": result.split,
        "images": result.num_images,
        "size": result.size,
        "delta_m_percent": result.delta_m_percent,
        "dead_tasks": list(result.dead_tasks),
        "tasks": of_task,
    }
    return json.dumps(values, indent=1)


def print_final(screen: Screen, result: FinalResult) -> None:
    """Metrics of a final training or an evaluation, with delta_m if baselines are known."""
    columns = ["task", "metric", "value"] + (
        ["baseline", "gain %", "no-image prior"] if result.baselines else []
    )
    rows = []
    for name, value in result.metrics.items():
        spec = result.specs[name]
        row = [name, spec.metric, spec.display(value)]
        if result.baselines:
            base = result.baselines.get(name)
            row += ["auxiliary", "", ""]
            if base is not None:
                gain = f"{result.gains_percent[name]:+.2f}"
                row[3:] = [spec.display(base.value), gain, spec.display(base.prior_value)]
        rows.append(row)
        for metric, extra in result.extra_metrics.get(name, {}).items():
            rows.append([name, metric, spec.display(extra), *[""] * (len(columns) - 3)])
    print_table(
        screen.console, f"{result.split} split, {result.num_images} images, at {result.size}", columns, rows
    )
    screen.line("")
    for name in result.metrics:
        if result.specs[name].derived_from:
            screen.hint(f"The labels of {name} are derived from {result.specs[name].derived_from}.")
    if result.delta_m_percent is not None:
        screen.say(
            f"delta_m {result.delta_m_percent:+.2f} % on the {result.split} split, against {result.against}, "
            "trained on the same ids; one seed."
        )
    if result.baselines and result.extra_metrics:
        screen.hint(
            f"Gains and delta_m use the metric that has a baseline beside it; {listed_extras(result)} "
            "only for comparison with publications.",
        )
    if result.split == "holdout" and result.has_seen_holdout:
        screen.say("`train` uses all training ids: its checkpoints have seen the hold-out.", style="red")
    if result.dead_tasks:
        tasks = ", ".join(result.dead_tasks)
        screen.say(
            f"Not to be trusted, not clearly better than a guess that ignores the image: {tasks}.",
            style="red",
        )


def listed_extras(result: FinalResult) -> str:
    """Metrics that are shown without a baseline, each named once."""
    names = list(dict.fromkeys(metric for extras in result.extra_metrics.values() for metric in extras))
    return f"{enumerated(names)} {'is' if len(names) == 1 else 'are'} shown"


def _print_sketches(screen: Screen, study: LoadedStudy, trials: Frame, front: Frame) -> None:
    """The front as a plot, its layers as blocks."""
    if screen.quiet:
        return
    goal, price = study.config.goal, study.config.price
    points = front_points(trials, goal, price) if goal and price else []
    if goal and price and len({point[0] for point in points}) > 1:
        unit = " in percent" if goal.endswith("_percent") else ""
        screen.line(f"\n{heading(goal)}{unit} (up) by {heading(price)} (across):")
        for line in plot_points(points, width=min(60, screen.console.width - 12)):
            screen.line(line)
        screen.hint("* on the front, o feasible, x above a limit")
    from dtme_search.reporting import could_grow

    shown = front[front["layers"] != ""].head(_MOST_MAPS) if could_grow(study) else front.head(0)
    if len(shown) and len(shown["layers"].iloc[0]) * 3 + 24 <= screen.console.width:
        screen.line("\nLayers, input first:")
        for _, row in shown.iterrows():
            number, gain = row["trial"], cell("delta_m_percent", row["delta_m_percent"])
            blocks = Text(f"trial {number:<5}").append(layer_blocks(row["layers"])).append(f"  {gain} %")
            screen.console.print(blocks, soft_wrap=True)


def _print_measures(screen: Screen, study: LoadedStudy, trials: Frame, front: Frame) -> None:
    """Metrics of all tasks and searched parameters, trials side by side, as many as fit."""
    from dtme_search.reporting import metrics_table, searched_table

    numbers = front["trial"].tolist()
    # As many trials as fit beside the fixed columns.
    most = max(1, (screen.console.width - 45) // 19)
    shown, more = numbers[:most], f", first {most} of the front" if len(numbers) > most else ""
    for title, (columns, rows) in (
        ("Metrics on the hold-out", metrics_table(study, shown)),
        ("Searched", searched_table(study, trials, shown)),
    ):
        if rows:
            screen.line("")
            print_table(screen.console, title + more, columns, rows)


def _print_doubts(screen: Screen, front: Frame) -> None:
    doubtful = front[front["dead_tasks"] != ""]
    for dead, group in doubtful.groupby("dead_tasks", sort=False):
        trials = numbered("trial", group["trial"].tolist())
        tasks = enumerated(str(dead).split(","))
        screen.say(
            f"Not to be trusted, not clearly better than a guess that ignores the image in {tasks}: "
            f"{trials}.",
            style="red",
        )
