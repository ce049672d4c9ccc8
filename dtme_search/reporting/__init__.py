"""What people look at: tables, pictures, exports, reports, the dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtme_search.lazy import lazily

if TYPE_CHECKING:
    from dtme_search.reporting.costs import cost_doubt, marked_costs, threads_in_words
    from dtme_search.reporting.dashboard import make_server
    from dtme_search.reporting.export import best_trial, export_best, export_front, export_trial
    from dtme_search.reporting.figures import FIGURES, conflict_heat_map, draw_trial, save_png
    from dtme_search.reporting.guard import Access
    from dtme_search.reporting.legend import could_grow, front_legend, telling
    from dtme_search.reporting.measures import metrics_table, searched_table, without_measures
    from dtme_search.reporting.notebook import StudyView, load_study
    from dtme_search.reporting.page import PageKeeper, write_page
    from dtme_search.reporting.panels import (
        PanelRow,
        draw_panels,
        predict_image,
        save_split_panels,
        split_panels,
    )
    from dtme_search.reporting.report import write_report
    from dtme_search.reporting.sheet import label_sheet
    from dtme_search.reporting.study_data import StudyData, read_study_data
    from dtme_search.reporting.tables import (
        Frame,
        against,
        baselines_table,
        confirmed_table,
        failed_table,
        front_table,
        over_base_legend,
        pruned_table,
        trials_table,
        whole_counts,
    )

__all__ = [
    "FIGURES",
    "Access",
    "Frame",
    "PageKeeper",
    "PanelRow",
    "StudyData",
    "StudyView",
    "against",
    "baselines_table",
    "best_trial",
    "confirmed_table",
    "conflict_heat_map",
    "cost_doubt",
    "could_grow",
    "draw_panels",
    "draw_trial",
    "export_best",
    "export_front",
    "export_trial",
    "failed_table",
    "front_legend",
    "front_table",
    "label_sheet",
    "load_study",
    "make_server",
    "marked_costs",
    "metrics_table",
    "over_base_legend",
    "predict_image",
    "pruned_table",
    "read_study_data",
    "save_png",
    "save_split_panels",
    "searched_table",
    "split_panels",
    "telling",
    "threads_in_words",
    "trials_table",
    "whole_counts",
    "without_measures",
    "write_page",
    "write_report",
]

_get = lazily(
    __name__,
    {
        "costs": ("cost_doubt", "marked_costs", "threads_in_words"),
        "dashboard": ("make_server",),
        "export": ("best_trial", "export_best", "export_front", "export_trial"),
        "figures": ("FIGURES", "conflict_heat_map", "draw_trial", "save_png"),
        "guard": ("Access",),
        "legend": ("could_grow", "front_legend", "telling"),
        "measures": ("metrics_table", "searched_table", "without_measures"),
        "notebook": ("StudyView", "load_study"),
        "page": ("PageKeeper", "write_page"),
        "panels": ("PanelRow", "draw_panels", "predict_image", "save_split_panels", "split_panels"),
        "report": ("write_report",),
        "sheet": ("label_sheet",),
        "study_data": ("StudyData", "read_study_data"),
        "tables": (
            "Frame",
            "against",
            "baselines_table",
            "confirmed_table",
            "failed_table",
            "front_table",
            "over_base_legend",
            "pruned_table",
            "trials_table",
            "whole_counts",
            "whole_counts",
        ),
    },
)

if not TYPE_CHECKING:  # type checkers would take any name
    __getattr__ = _get
