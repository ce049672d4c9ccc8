"""Where tasks conflict: range space beside null space, averaged over the trials that measured."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dtme_search.reporting.figures.style import axis, new_figure, sentence
from dtme_search.reporting.study_data import StudyData

_TITLE = "Conflicting tokens by layer and pair of tasks"
_SPACES = (("range", "range space (token modulation)"), ("null", "null space (token expansion)"))


def draw_conflicts(data: StudyData) -> go.Figure:
    """Conflict rates in percent: layer (rows) by pair (columns), one colour scale for both spaces."""
    rates = data.conflicts
    if rates.empty:
        return sentence(_TITLE, "No trial has measured conflicts.")
    place = {name: index for index, name in enumerate(data.run_config.tasks if data.run_config else ())}
    rates = rates.assign(
        pair=rates["task_a"] + "<br>" + rates["task_b"],
        first=rates["task_a"].map(place),
        second=rates["task_b"].map(place),
    ).sort_values(["layer", "first", "second"])
    values = rates[["range_percent", "null_percent"]]
    limits = {"zmin": float(values.min().min()), "zmax": float(values.max().max())}
    figure = make_subplots(
        cols=2, shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=[t for _, t in _SPACES]
    )
    num_layers = rates["layer"].nunique()
    figure.update_layout(
        new_figure(
            f"{_TITLE}, mean of {int(rates['trials'].max())} trials", height=240 + 26 * num_layers
        ).layout
    )
    for column, (space, _) in enumerate(_SPACES, start=1):
        grid = rates.pivot_table(index="layer", columns="pair", values=f"{space}_percent", sort=False)
        figure.add_trace(
            go.Heatmap(
                z=grid.round(3).to_numpy().tolist(),
                x=list(grid.columns),
                y=[int(layer) for layer in grid.index],
                **limits,
                colorscale="Cividis",
                showscale=column == 2,
                colorbar={"title": {"text": "% of tokens"}, "thickness": 12},
                texttemplate="%{z:.1f}",
                hovertemplate="layer %{y}, %{x}: %{z:.2f} %<extra></extra>",
            ),
            row=1,
            col=column,
        )
        figure.update_xaxes(axis("", showgrid=False, tickfont={"size": 11}), row=1, col=column)
    figure.update_yaxes(axis("", showgrid=False, autorange="reversed", dtick=1))
    figure.update_yaxes(axis("layer (0 = first block)", showgrid=False, dtick=1), row=1, col=1)
    return figure
