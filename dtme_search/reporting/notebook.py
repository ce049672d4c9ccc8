"""A study in a notebook: its results as DataFrames, its figures as objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from dtme_search.config import StudySource
from dtme_search.reporting.document import Bullets, Heading, to_fragment
from dtme_search.reporting.figures import FIGURES
from dtme_search.reporting.report import write_report
from dtme_search.reporting.sections import front_section
from dtme_search.reporting.story import story
from dtme_search.reporting.study_data import plan_of_run, read_study_data
from dtme_search.reporting.tables import front_table, trials_table
from dtme_search.search import DEFAULT_WORKDIR, LoadedStudy, own_trials
from dtme_search.search import load_study as load
from dtme_search.search.storage.trials import FINISHED
from dtme_search.token_space import ExpansionPlan


@dataclass(frozen=True)
class StudyView(LoadedStudy):
    """A study to look at; every call reads the database as it is at that time.

    A notebook displays it as the findings and the front.
    """

    def results(self) -> pd.DataFrame:
        """One row per trial; ``dtme_search.reporting.trials_table`` explains the columns."""
        return trials_table(self)

    def front(self) -> pd.DataFrame:
        """Feasible trials that no other feasible trial beats in every objective, best delta_m first."""
        return front_table(self)

    def plan(self, trial: int) -> ExpansionPlan:
        """Where and how the network of a trial grew.

        Raises:
            ValueError: If there is no such trial, or it is not complete.
        """
        run = next(iter(self.records.runs(self.name, trial)), None)
        plan = plan_of_run(run) if run is not None else None
        if plan is None:
            raise ValueError(f"trial must be a complete trial, got {trial}.")
        return plan

    def figures(self) -> Mapping[str, go.Figure]:
        """The figures of the dashboard and the report: front, rungs, layers, start, conflicts, importance."""
        data = read_study_data(self)
        return {figure.name: figure.draw(data) for figure in FIGURES}

    def story(self) -> list[str]:
        """The findings, in sentences; ``**words**`` are bold."""
        return story(read_study_data(self))

    def report(self, path: str | Path) -> Path:
        """Write the report, as Markdown if the name ends in ``.md``, else as one HTML file."""
        return write_report(self, Path(path))

    def __repr__(self) -> str:
        trials = len(own_trials(self.optuna, FINISHED))
        return f"StudyView({self.name!r}, {trials} of {self.config.trials} trials)"

    def _repr_html_(self) -> str:
        data = read_study_data(self)
        heading = Heading(f"Study {self.name}", 3)
        return to_fragment([heading, Bullets(story(data)), *front_section(data)])


def load_study(
    study: StudySource, *, storage: str | None = None, workdir: str | Path = DEFAULT_WORKDIR
) -> StudyView:
    """Open an existing study, to look at it.

    Args:
        study: Name of the study, the path of its YAML, or the study as it was built in Python.
        storage: Database URL; ``DTME_STORAGE`` or SQLite in the study's folder by default.
        workdir: Default folder of studies.

    Raises:
        StorageError: If there is no such study or the database cannot be reached.
    """
    found = load(study, storage=storage, workdir=workdir)
    return StudyView(found.config, found.optuna, found.records, found.place)
