"""The common style of all interactive figures, and the words on their axes."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from dtme_search.reporting.colours import BLACK, GREY, LIGHT_GREY
from dtme_search.words import heading

AXIS_TITLES = {
    "delta_m_percent": "delta_m (%), higher is better",
    "param_overhead_percent": "parameter overhead (%)",
    "step_cost_ratio": "step cost (unexpanded steps)",
    "inference_flops_ratio": "FLOPs of a prediction (of the unexpanded network)",
    "latency_ms": "latency of a prediction (ms)",
    "inference_memory_mb": "memory of a prediction (MB)",
    "worst_gain_percent": "gain of the worst task (%), higher is better",
}


def axis_title(measure: str) -> str:
    """Words on the axis of a measure."""
    return AXIS_TITLES.get(measure, heading(measure))


HEIGHT = 420
"""Pixels."""


def new_figure(title: str, **layout: Any) -> go.Figure:
    """An empty figure without plotly's own template, which would be most of what is stored."""
    figure = go.Figure(layout={"template": "none"})
    figure.update_layout(
        title={"text": title, "x": 0.02, "xanchor": "left", "font": {"size": 16}},
        height=HEIGHT,
        margin={"l": 70, "r": 20, "t": 60, "b": 60},
        paper_bgcolor="white",
        plot_bgcolor="white",
        font={"size": 13, "color": BLACK},
        hoverlabel={"align": "left"},
    )
    figure.update_layout(**layout)
    return figure


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a light grid and room for its labels."""
    return {
        "title": {"text": title},
        "gridcolor": LIGHT_GREY,
        "zerolinecolor": GREY,
        "linecolor": GREY,
        "ticks": "outside",
        "tickcolor": GREY,
        "automargin": True,
        **more,
    }


def sentence(title: str, text: str) -> go.Figure:
    """A figure that says why there is nothing to draw yet."""
    figure = new_figure(title, height=160)
    figure.update_layout(xaxis={"visible": False}, yaxis={"visible": False})
    figure.add_annotation(text=text, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    return figure
