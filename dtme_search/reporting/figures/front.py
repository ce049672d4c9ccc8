"""What was reached at which price: all finished trials and the feasible front."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from dtme_search.reporting.colours import BLACK, STATE_COLOURS
from dtme_search.reporting.figures.style import axis, axis_title, new_figure, sentence
from dtme_search.reporting.study_data import StudyData
from dtme_search.words import heading

_TITLE = "Gain and cost of every trial"
_SYMBOLS = {"front": "star", "complete": "circle", "infeasible": "x-thin-open", "taken over": "circle-open"}
_SIZES = {"front": 13, "complete": 8, "infeasible": 8, "taken over": 8}
_NAMES = {
    "front": "feasible front",
    "complete": "feasible",
    "infeasible": "exceeds a limit",
    "taken over": "reused from equal work",
}


def draw_front(data: StudyData) -> go.Figure:
    """What the study is after (delta_m) against its other objective, parameter overhead if it has none.

    Confirmed trials have the standard deviation over their seeds as error bars.
    """
    return _against(data, price_of(data), _TITLE)


def draw_cost(data: StudyData) -> go.Figure:
    """delta_m against the measured step cost, if another price is the objective."""
    title = "Gain and measured step cost of every trial"
    if price_of(data) == "step_cost_ratio":
        return sentence(title, "The step cost is an objective: see the front.")
    return _against(data, "step_cost_ratio", title)


def _against(data: StudyData, price: str, title: str) -> go.Figure:
    goal = data.config.goal or "delta_m_percent"
    shown = data.complete.dropna(subset=[goal])
    if shown.empty:
        return sentence(title, "No trial is complete yet.")
    if shown[price].nunique() < 2:
        return sentence(title, f"{axis_title(price)}: the same for all trials.")
    figure = new_figure(title, legend={"orientation": "h", "y": -0.22}, hovermode="closest")
    kinds = data.kinds[shown.index]
    for kind in ("infeasible", "complete", "taken over", "front"):
        group = shown[kinds == kind].sort_values(price)
        if not group.empty:
            figure.add_trace(_points(group, kind, goal, price))
    confirmed = shown[shown["delta_m_mean"].notna()]
    if not confirmed.empty and goal == "delta_m_percent":
        figure.add_trace(_confirmed(confirmed, price))
    limit = data.config.limits.get(price)
    if limit is not None:
        figure.add_vline(x=limit, line={"dash": "dot", "color": BLACK, "width": 1})
        figure.add_annotation(x=limit, y=1, yref="paper", text=" limit", showarrow=False, xanchor="left")
    figure.update_xaxes(axis(axis_title(price)))
    figure.update_yaxes(axis(axis_title(goal)))
    return figure


def price_of(data: StudyData) -> str:
    """The measure to plot against what the study is after."""
    return data.config.price or "param_overhead_percent"


def _points(group: pd.DataFrame, kind: str, goal: str, price: str) -> go.Scatter:
    return go.Scatter(
        x=group[price].tolist(),
        y=group[goal].astype(float).round(4).tolist(),
        mode="lines+markers" if kind == "front" else "markers",
        line={"color": STATE_COLOURS[kind], "width": 1, "dash": "dash"},
        marker={
            "color": STATE_COLOURS[kind],
            "symbol": _SYMBOLS[kind],
            "size": _SIZES[kind],
            "line": {"width": 2 if kind in ("infeasible", "taken over") else 0.5},
        },
        name=_NAMES[kind],
        text=[_hover(row) for _, row in group.iterrows()],
        hovertemplate=f"%{{text}}<br>{_shown_in_hover(goal)}, %{{x:.4g}}<extra></extra>",
    )


def _shown_in_hover(goal: str) -> str:
    return f"{heading(goal)} " + ("%{y:+.2f} %" if goal.endswith("_percent") else "%{y:.4g}")


def _hover(row: pd.Series) -> str:
    start = f", start {row['start']:g}" if row["start"] == row["start"] else ""
    doubt = f"<br>not to be trusted: {row['dead_tasks']}" if row["dead_tasks"] else ""
    return f"trial {row['trial']}: {row['layers']}{start}{doubt}"


def _confirmed(group: pd.DataFrame, price: str) -> go.Scatter:
    return go.Scatter(
        x=group[price].tolist(),
        y=group["delta_m_mean"].round(4).tolist(),
        error_y={"type": "data", "array": group["delta_m_std"].round(4).tolist(), "thickness": 1.5},
        mode="markers",
        marker={"color": BLACK, "symbol": "diamond", "size": 9},
        name="confirmed: mean and standard deviation over seeds",
        text=[
            f"trial {number}, {seeds} seeds"
            for number, seeds in zip(group["trial"], group["num_seeds"], strict=True)
        ],
        hovertemplate="%{text}<br>mean delta_m %{y:+.2f} %<extra></extra>",
    )
