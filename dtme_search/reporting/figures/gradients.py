"""How the gradients of tasks compare, and whether tasks differ more than images of one task do."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dtme_search.reporting.colours import BLUE, GREY, ORANGE
from dtme_search.reporting.figures.style import axis, new_figure, sentence
from dtme_search.reporting.study_data import StudyData

_TITLE = "Gradients on the shared parameters"
_BIN = 0.1
_KINDS = {
    ("tasks", 0): ("two tasks, not grown", BLUE),
    ("tasks", 1): ("two tasks, grown", ORANGE),
    ("images", 0): ("two images of a task, not grown", GREY),
    ("images", 1): ("two images of a task, grown", "#B0B0B0"),
}


def draw_gradients(data: StudyData) -> go.Figure:
    """Left: mean cosine over the training. Right: spread of the cosines over all pairs, layers and steps."""
    seen = data.gradients
    if seen.empty:
        return sentence(_TITLE, "No trial has measured its gradients (train.statistics.every).")
    figure = make_subplots(
        cols=2,
        horizontal_spacing=0.12,
        subplot_titles=["over training, all layers", "by layer, all measurements"],
    )
    trials = seen["trial"].nunique()
    figure.update_layout(
        new_figure(
            f"{_TITLE}, {trials} trial{'s' if trials > 1 else ''}", legend={"orientation": "h", "y": -0.22}
        ).layout
    )
    for (pair, grown), (name, colour) in _KINDS.items():
        chosen = seen[(seen["pair"] == pair) & (seen["grown"] == grown)]
        if chosen.empty:
            continue
        whole = chosen["layer_group"] == "all"
        figure.add_trace(_course(chosen[whole], name, colour), row=1, col=1)
        figure.add_trace(_spread(chosen[~whole]["cosine"], name, colour), row=1, col=2)
    figure.update_xaxes(axis("fraction of training done", tickformat=".0%", rangemode="tozero"), row=1, col=1)
    figure.update_yaxes(axis("mean cosine (below 0: they conflict)"), row=1, col=1)
    figure.update_xaxes(axis("cosine of two gradients", range=[-1, 1]), row=1, col=2)
    figure.update_yaxes(axis("share of pairs (%)", rangemode="tozero"), row=1, col=2)
    return figure


def _course(rows: pd.DataFrame, name: str, colour: str) -> go.Scatter:
    means = rows.groupby("fraction")["cosine"].mean()
    return go.Scatter(
        x=means.index.tolist(),
        y=means.round(4).tolist(),
        mode="lines+markers",
        name=name,
        legendgroup=name,
        line={"color": colour, "width": 2},
        hovertemplate=f"{name}<br>%{{x:.0%}}: cosine %{{y:.3f}}<extra></extra>",
    )


def _spread(cosines: pd.Series, name: str, colour: str) -> go.Scatter:
    """Shares in bins, as the outline of a histogram."""
    edges = [round(-1 + _BIN * index, 6) for index in range(round(2 / _BIN) + 1)]
    shares = pd.cut(cosines, edges, include_lowest=True).value_counts(normalize=True, sort=False) * 100
    return go.Scatter(
        x=edges,
        y=[*shares.round(3).tolist(), 0.0],
        mode="lines",
        name=name,
        legendgroup=name,
        showlegend=False,
        line={"color": colour, "width": 2, "shape": "hv"},
        hovertemplate=f"{name}<br>from %{{x:.1f}}: %{{y:.1f}} %<extra></extra>",
    )
