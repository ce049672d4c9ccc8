"""Figures: one file each. Interactive ones for the dashboard and the report, heat maps as PNG.

Every axis states what it shows and in which unit; colours are safe for colour-blind eyes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import plotly.graph_objects as go

from dtme_search.reporting.figures.conflicts import draw_conflicts
from dtme_search.reporting.figures.data_map import draw_data_map
from dtme_search.reporting.figures.front import draw_cost, draw_front
from dtme_search.reporting.figures.gradients import draw_gradients
from dtme_search.reporting.figures.heat_map import conflict_heat_map, draw_trial, save_png
from dtme_search.reporting.figures.importance import draw_importance
from dtme_search.reporting.figures.layers import draw_layers
from dtme_search.reporting.figures.rungs import draw_rungs
from dtme_search.reporting.figures.start import draw_start
from dtme_search.reporting.study_data import StudyData


@dataclass(frozen=True)
class Figure:
    """A figure of a study.

    Attributes:
        key: Its name in the dashboard and as an anchor in the report.
        draw: Draws it.
        caption: How to read it.
        of_growth: Whether it is meaningful only if a network may grow.
    """

    key: str
    draw: Callable[[StudyData], go.Figure]
    caption: str
    of_growth: bool = False

    @property
    def name(self) -> str:
        """The key without the number that sorts it."""
        return self.key.partition("-")[2]


FIGURES = (
    Figure(
        "1-front",
        draw_front,
        "Each point is a trial. No feasible trial beats one on the front in every objective.",
    ),
    Figure(
        "2-rungs",
        draw_rungs,
        "delta_m on the hold-out at each evaluation, over the trial's own training.",
    ),
    Figure(
        "3-layers",
        draw_layers,
        "Where the best trials differ from all trials, growth there is associated with a better "
        "delta_m. The sampler favours what worked before, so the trials are not an even sample.",
        of_growth=True,
    ),
    Figure("4-start", draw_start, "Feasible trials by the time at which the network grew.", of_growth=True),
    Figure(
        "5-conflicts",
        draw_conflicts,
        "Share of token positions at which the gradients of two tasks oppose each other.",
        of_growth=True,
    ),
    Figure(
        "6-importance",
        draw_importance,
        "Each parameter's share in what separates the best tenth of the trials from all of them.",
    ),
    Figure(
        "7-gradients",
        draw_gradients,
        "Cosines between gradients of single images. Tasks conflict more than images do only where the curve "
        "of two tasks lies below that of two images of a task.",
    ),
    Figure(
        "8-data-map",
        draw_data_map,
        "Each point is a training image. Top: learnt early and kept; bottom: never learnt; right: its "
        "score changed during training.",
    ),
    Figure(
        "9-cost",
        draw_cost,
        "Each point is a trial; stars are the front of the study's own objectives. Costs are measured.",
    ),
)
"""In reading order."""


def telling_figures(data: StudyData) -> list[tuple[Figure, go.Figure]]:
    """The drawn figures that are meaningful for a study."""
    drawn = [(figure, figure.draw(data)) for figure in FIGURES if data.could_grow or not figure.of_growth]
    return [(figure, picture) for figure, picture in drawn if picture.data]


__all__ = ["FIGURES", "Figure", "conflict_heat_map", "draw_trial", "save_png", "telling_figures"]
