"""What people look at: tables, pictures, exports, the dashboard."""

from dtme_search.reporting.export import best_trial, export_best, export_front, export_trial
from dtme_search.reporting.figures import conflict_heat_map, draw_trial, save_png
from dtme_search.reporting.sheet import label_sheet
from dtme_search.reporting.tables import (
    LEGEND,
    Frame,
    baselines_table,
    confirmed_table,
    failed_table,
    front_table,
    pruned_table,
    trials_table,
)

__all__ = [
    "LEGEND",
    "Frame",
    "baselines_table",
    "best_trial",
    "confirmed_table",
    "conflict_heat_map",
    "draw_trial",
    "export_best",
    "export_front",
    "export_trial",
    "failed_table",
    "front_table",
    "label_sheet",
    "pruned_table",
    "save_png",
    "trials_table",
]
