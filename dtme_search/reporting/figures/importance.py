"""Which searched parameters separate good trials from the rest, for each objective."""

from __future__ import annotations

import plotly.graph_objects as go

from dtme_search.reporting.colours import SERIES
from dtme_search.reporting.figures.style import axis, new_figure, sentence
from dtme_search.reporting.study_data import StudyData

_TITLE = "Importance of the searched parameters"
_MOST = 20
_LEAST = 0.001


def draw_importance(data: StudyData) -> go.Figure:
    """Bars by parameter, one colour per objective; the most important 20."""
    shares = data.importances
    if shares.empty:
        return sentence(_TITLE, "Too few complete trials, or too similar ones, to tell.")
    shown = shares[shares.max(axis=1) >= _LEAST].iloc[:_MOST].iloc[::-1]
    if shown.empty:
        return sentence(_TITLE, "No parameter separates the best trials from the rest.")
    figure = new_figure(
        _TITLE,
        height=170 + 34 * len(shown),
        barmode="group",
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "traceorder": "reversed"},
    )
    for objective, colour in reversed(list(zip(shown.columns, SERIES, strict=False))):
        figure.add_trace(
            go.Bar(
                x=[round(float(value), 4) for value in shown[objective].fillna(0.0)],
                y=[str(name) for name in shown.index],
                orientation="h",
                name=f"for {objective.removesuffix('_percent').removesuffix('_ratio')}",
                marker={"color": colour},
                hovertemplate="%{y}: %{x:.1%}<extra></extra>",
            )
        )
    figure.update_xaxes(axis("share of what separates the best trials (PED-ANOVA)", tickformat=".0%"))
    figure.update_yaxes(axis(""))
    return figure
