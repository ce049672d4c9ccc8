"""delta_m by the time at which the network grew."""

from __future__ import annotations

import plotly.graph_objects as go

from dtme_search.reporting.colours import BLUE, GREY
from dtme_search.reporting.figures.style import AXIS_TITLES, axis, new_figure, sentence
from dtme_search.reporting.study_data import StudyData

_TITLE = "Gain by expansion start"


def draw_start(data: StudyData) -> go.Figure:
    """A box and the points of every feasible trial, by the fraction of training before the growth."""
    shown = data.feasible.dropna(subset=["delta_m_percent"])
    if shown.empty:
        return sentence(_TITLE, "No trial is complete yet.")
    figure = new_figure(_TITLE, showlegend=False)
    never = shown[shown["start"].isna()]
    groups = [("never", never, GREY)] if len(never) else []
    groups += [(f"{start:.0%}", group, BLUE) for start, group in shown.groupby("start", sort=True)]
    for name, group, colour in groups:
        figure.add_trace(
            go.Box(
                y=group["delta_m_percent"].round(4).tolist(),
                name=f"{name}<br>n={len(group)}",
                boxpoints="all" if len(group) <= 60 else "outliers",
                jitter=0.4,
                pointpos=0,
                fillcolor="rgba(0,0,0,0)",
                line={"color": colour, "width": 1.2},
                marker={"color": colour, "size": 7, "opacity": 0.7},
                text=[f"trial {number}" for number in group["trial"]],
                hovertemplate="%{text}<br>delta_m %{y:+.2f} %<extra></extra>",
            )
        )
    figure.update_xaxes(axis("fraction of training before growth", showgrid=False, type="category"))
    figure.update_yaxes(axis(AXIS_TITLES["delta_m_percent"]))
    return figure
