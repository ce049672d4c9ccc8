"""The data map of a trial: which training images are easy, hard or undecided, for each task."""

from __future__ import annotations

import plotly.graph_objects as go

from dtme_search.reporting.colours import SERIES
from dtme_search.reporting.figures.style import axis, new_figure, sentence
from dtme_search.reporting.study_data import StudyData
from dtme_search.reporting.task_likeness import data_maps

_TITLE = "Data map"


def draw_data_map(data: StudyData) -> go.Figure:
    """Confidence against variability, a point for each image and task, for the best trial with a map."""
    kept = {each.trial: each for each in data_maps(data.study)}
    if not kept:
        return sentence(_TITLE, "No trial kept a data map (train.statistics.map_images).")
    ranked = data.complete.sort_values("delta_m_percent", ascending=False)["trial"]
    trial = next((int(number) for number in ranked if int(number) in kept), max(kept))
    chosen = kept[trial]
    figure = new_figure(f"{_TITLE} of trial {trial}", legend={"orientation": "h", "y": -0.22})
    for task, colour in zip(chosen.scores, SERIES * len(chosen.scores), strict=False):
        right = chosen.correctness(task)
        figure.add_trace(
            go.Scatter(
                x=chosen.variability(task).round(4).tolist(),
                y=chosen.confidence(task).round(4).tolist(),
                mode="markers",
                name=task,
                marker={"color": colour, "size": 5, "opacity": 0.6},
                customdata=None if right is None else right.round(4).tolist(),
                hovertemplate=f"{task}<br>confidence %{{y:.2f}}<br>variability %{{x:.3f}}"
                + ("" if right is None else "<br>right in %{customdata:.0%} of the evaluations")
                + "<extra></extra>",
            )
        )
    figure.update_xaxes(axis("variability: spread of an image's score over training", rangemode="tozero"))
    figure.update_yaxes(axis("confidence: its mean score (1 = right)", range=[0, 1]))
    return figure
