"""How delta_m grew during training, trial by trial."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import plotly.graph_objects as go

from dtme_search.reporting.colours import SERIES, STATE_COLOURS
from dtme_search.reporting.figures.style import AXIS_TITLES, axis, new_figure, sentence
from dtme_search.reporting.study_data import StudyData

_TITLE = "delta_m while training"
_MOST_LINES = 150
"""Trials drawn besides the front: the newest."""
_MOST_NAMED = 6


def draw_rungs(data: StudyData) -> go.Figure:
    """delta_m at every evaluation: the front in colours, pruned trials with a cross where they ended."""
    rungs = data.rungs.dropna(subset=["delta_m_percent", "fraction"])
    if rungs.empty:
        return sentence(_TITLE, "No trial was evaluated yet.")
    curves: dict[int, tuple[list[float], list[float]]] = {}
    columns = (rungs["trial"], rungs["fraction"], rungs["delta_m_percent"].round(3))
    # Not groupby, which takes seconds to make a frame for each of 10,000 trials.
    for number, fraction, value in zip(*(column.tolist() for column in columns), strict=True):
        fractions, values = curves.setdefault(number, ([], []))
        fractions.append(fraction)
        values.append(value)
    kinds = dict(zip(data.trials["trial"], data.kinds, strict=True))
    front = [number for number in curves if kinds.get(number) == "front"]
    best = data.trials.set_index("trial").loc[front]["delta_m_percent"].sort_values(ascending=False)
    named = best.index[:_MOST_NAMED].tolist()
    pruned = [number for number in curves if kinds.get(number) == "pruned"]
    ended = ("complete", "infeasible", "taken over", "front", "running")
    others = [number for number in curves if kinds.get(number) in ended and number not in named]
    figure = new_figure(_TITLE, legend={"orientation": "h", "y": -0.22}, hovermode="closest")
    groups = (("other trials", others, "#B0B0B0"), ("pruned", pruned, STATE_COLOURS["pruned"]))
    for name, numbers, colour in groups:
        shown = numbers[-_MOST_LINES:]
        if shown:
            label = (
                f"{name} ({len(numbers)})"
                if shown == numbers
                else f"{name} ({len(shown)} newest of {len(numbers)})"
            )
            figure.add_trace(_lines([(number, *curves[number]) for number in shown], label, colour))
    if pruned:
        last = [(number, curves[number][0][-1], curves[number][1][-1]) for number in pruned[-_MOST_LINES:]]
        figure.add_trace(_crosses(last))
    for number, colour in zip(named, SERIES, strict=False):
        figure.add_trace(_curve(number, curves[number], colour))
    figure.update_xaxes(axis("fraction of training done", tickformat=".0%", rangemode="tozero"))
    figure.update_yaxes(axis(AXIS_TITLES["delta_m_percent"], range=_second_half(rungs)))
    return figure


def _second_half(rungs: pd.DataFrame) -> list[float] | None:
    """Range of the second half of the training; only first evaluations lie far below it."""
    late = rungs[rungs["fraction"] >= 0.5]["delta_m_percent"]
    if late.empty:
        return None
    low, high = float(late.quantile(0.02)), float(late.max())
    room = 0.08 * (high - low) or 1.0
    return [low - room, high + room]


def _lines(curves: Iterable[tuple[int, list[float], list[float]]], name: str, colour: str) -> go.Scatter:
    """Many curves as one trace with gaps between them; one trace each would be slow."""
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str | None] = []
    for number, fractions, values in curves:
        x += [*fractions, None]
        y += [*values, None]
        text += [f"trial {number}"] * len(fractions) + [None]
    return go.Scatter(
        x=x, y=y, text=text, mode="lines", name=name, opacity=0.6, line={"color": colour, "width": 1},
        hovertemplate="%{text}<br>%{x:.0%}: delta_m %{y:+.2f} %<extra></extra>",
    )  # fmt: skip


def _crosses(ends: Iterable[tuple[int, float, float]]) -> go.Scatter:
    numbers, x, y = zip(*ends, strict=True)
    return go.Scatter(
        x=x, y=y, text=[f"trial {number} pruned" for number in numbers], mode="markers", showlegend=False,
        marker={"color": STATE_COLOURS["pruned"], "symbol": "x", "size": 7},
        hovertemplate="%{text}<br>%{x:.0%}: delta_m %{y:+.2f} %<extra></extra>",
    )  # fmt: skip


def _curve(number: int, curve: tuple[list[float], list[float]], colour: str) -> go.Scatter:
    return go.Scatter(
        x=curve[0], y=curve[1], mode="lines+markers", name=f"trial {number}",
        line={"color": colour, "width": 2.5}, marker={"size": 6},
        hovertemplate=f"trial {number}<br>%{{x:.0%}}: delta_m %{{y:+.2f}} %<extra></extra>",
    )  # fmt: skip
