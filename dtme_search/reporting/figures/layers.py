"""Which layers grow, and how: the best trials compared with all trials."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dtme_search.operations import LETTERS, OF_THE_PAPER, in_words, name_of
from dtme_search.reporting.figures.style import axis, new_figure, sentence
from dtme_search.reporting.study_data import StudyData

_TITLE = "Operation by layer"
_SCALE = "Blues"
_BEST_SHARE = 0.1
_FEWEST_BEST = 3


def best_trials(data: StudyData) -> pd.DataFrame:
    """The best tenth of the feasible trials by delta_m, at least three of them [ours]."""
    feasible = data.feasible.dropna(subset=["delta_m_percent"])
    count = max(_FEWEST_BEST, round(_BEST_SHARE * len(feasible)))
    return feasible.astype({"delta_m_percent": float}).nlargest(count, "delta_m_percent")


def operation_shares(trials: pd.DataFrame) -> pd.DataFrame:
    """Share of the trials, in percent, that have an operation (rows) at a layer (columns)."""
    letters = pd.DataFrame([list(layers) for layers in trials["layers"]])
    return pd.DataFrame(
        {
            word: [100.0 * float((letters[layer] == letter).mean()) for layer in letters.columns]
            for word, letter in {**LETTERS, "*": "*"}.items()
        }
    ).T


def draw_layers(data: StudyData) -> go.Figure:
    """Two heat maps, best trials and all: operation (rows) by layer (columns), percent of the trials."""
    everything = data.complete[data.complete["layers"].astype(str).str.len() > 0]
    best = best_trials(data)
    if everything.empty or best.empty:
        return sentence(_TITLE, "No trial is complete yet.")
    if len(best) == len(everything):
        return sentence(_TITLE, "Too few trials are complete to set the best apart.")
    groups = ((f"best {len(best)} by delta_m", best), (f"all {len(everything)} complete", everything))
    figure = make_subplots(
        cols=2, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=[t for t, _ in groups]
    )
    figure.update_layout(new_figure(_TITLE, height=360).layout)
    seen = operation_shares(everything).any(axis=1)
    always = ("none", *OF_THE_PAPER, name_of(OF_THE_PAPER))
    rows = [word for word in seen.index if seen[word] or word in always]
    for column, (_, trials) in enumerate(groups, start=1):
        shares = operation_shares(trials).loc[rows]
        figure.add_trace(_map(shares, with_bar=column == 2), row=1, col=column)
        figure.update_xaxes(axis("layer (0 = first block)", dtick=1, showgrid=False), row=1, col=column)
    figure.update_yaxes(axis("", showgrid=False, autorange="reversed"))
    return figure


def _map(shares: pd.DataFrame, *, with_bar: bool) -> go.Heatmap:
    return go.Heatmap(
        z=shares.round(1).to_numpy().tolist(),
        x=list(range(shares.shape[1])),
        y=[in_words(str(name)) for name in shares.index],
        zmin=0,
        zmax=100,
        colorscale=_SCALE,
        xgap=1,
        ygap=1,
        showscale=with_bar,
        colorbar={"title": {"text": "% of trials"}, "thickness": 12},
        text=[[f"{value:.0f}" for value in row] for row in shares.to_numpy()],
        texttemplate="%{text}",
        hovertemplate="layer %{x}, %{y}: %{z:.1f} % of the trials<extra></extra>",
    )
