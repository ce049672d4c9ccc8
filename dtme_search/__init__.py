"""Find when and where a multi-task vision transformer should grow task-specific capacity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dtme_search.version import __version__ as __version__

# Public name -> module. Looked up on first use, so that `import dtme_search` stays free of torch and optuna.
_PUBLIC = {
    "Callback": "dtme_search.search",
    "RunConfig": "dtme_search.config",
    "StudyConfig": "dtme_search.config",
    "DtmeSearchError": "dtme_search.errors",
    "TokenSpace": "dtme_search.token_space",
    "split_token_space": "dtme_search.token_space",
    "conflict_rates": "dtme_search.token_space",
    "ConflictReport": "dtme_search.token_space",
    "measure_conflicts": "dtme_search.token_space",
    "ExpansionPlan": "dtme_search.token_space",
    "plan_expansion": "dtme_search.token_space",
    "delta_m": "dtme_search.metrics",
    "MultiTaskViT": "dtme_search.models",
    "Trainer": "dtme_search.training",
    "load_study": "dtme_search.reporting",
    "optimize": "dtme_search.search",
    "export_best": "dtme_search.reporting",
}

if TYPE_CHECKING:
    from dtme_search.config import RunConfig, StudyConfig
    from dtme_search.errors import DtmeSearchError
    from dtme_search.metrics import delta_m
    from dtme_search.models import MultiTaskViT
    from dtme_search.reporting import export_best, load_study
    from dtme_search.search import Callback, optimize
    from dtme_search.token_space import (
        ConflictReport,
        ExpansionPlan,
        TokenSpace,
        conflict_rates,
        measure_conflicts,
        plan_expansion,
        split_token_space,
    )
    from dtme_search.training import Trainer

__all__ = [
    "Callback",
    "ConflictReport",
    "DtmeSearchError",
    "ExpansionPlan",
    "MultiTaskViT",
    "RunConfig",
    "StudyConfig",
    "TokenSpace",
    "Trainer",
    "conflict_rates",
    "delta_m",
    "export_best",
    "load_study",
    "measure_conflicts",
    "optimize",
    "plan_expansion",
    "split_token_space",
]


if not TYPE_CHECKING:  # type checkers would take any name

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'dtme_search' has no attribute '{name}'")
        import os
        from importlib import import_module

        # As on the command line: torch threads that spin while they wait would count as work in the cost of a
        # step. The setting is read when torch is imported, so it has no effect if torch was imported before.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__all__", "__doc__", "__version__"])
