"""The dashboard's page of a study: its note, a note per trial, figures; kept up to date at little cost.

Notes and figures are Optuna study attributes, where optuna-dashboard looks for them. All changes are written
in one transaction: a browser never sees half a figure, and a page costs one commit.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import optuna
from optuna_dashboard import save_note, save_plotly_graph_object
from sqlalchemy import insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dtme_search.errors import DtmeSearchError
from dtme_search.reporting.dashboard_names import is_version, note_version, pieces_of
from dtme_search.reporting.document import Block, Bullets, Code, Heading, Paragraph, to_markdown
from dtme_search.reporting.figures import FIGURES
from dtme_search.reporting.sections import baseline_section, front_section, next_commands, trial_note
from dtme_search.reporting.story import story, subject
from dtme_search.reporting.study_data import StudyData, read_study_data
from dtme_search.search import LoadedStudy, own_trials
from dtme_search.search.storage.database import repeated
from dtme_search.search.storage.optuna_internals import StudyAttribute as Attribute
from dtme_search.search.storage.optuna_internals import id_of_study, id_of_trial, storage_of, with_storage

_log = logging.getLogger(__name__)

SHARE_OF_TIME = 0.01
"""Share of a search's time that updating the page may take."""
SECONDS_BETWEEN = 30.0


@dataclass
class PageKeeper:
    """Rewrites the page when trials have ended, for at most a hundredth of the time.

    Several workers may do so: a page is written as a whole, and the last one wins.
    """

    _due: float = field(default_factory=lambda: time.monotonic() + SECONDS_BETWEEN, init=False)

    def __call__(self, study: LoadedStudy) -> None:
        """Write the page unless that was done recently."""
        started = time.monotonic()
        if started < self._due:
            return
        try:
            write_page(study)
        except (SQLAlchemyError, DtmeSearchError) as error:
            # A failure here must not end a search; the next page is written as if nothing had happened.
            _log.warning("the dashboard's page was not written: %s", error)
        ended = time.monotonic()
        self._due = ended + max(SECONDS_BETWEEN, (ended - started) / SHARE_OF_TIME)


def write_page(study: LoadedStudy) -> int:
    """Write the note, those of finished trials and the figures; returns the number of changed attributes."""
    data = read_study_data(study)
    known = storage_of(study.optuna).get_study_system_attrs(id_of_study(study.optuna))
    attributes = _Attributes(known)
    shadow = with_storage(study.optuna, attributes)
    save_note(shadow, to_markdown(study_note(data)))
    shown = set(data.trials["trial"]) if len(data.trials) else set()
    for trial in own_trials(study.optuna):
        if trial.number not in shown:
            continue
        if trial.state.is_finished() and note_version(id_of_trial(trial)) not in known:
            noted = cast("optuna.Trial", _Noted(shadow, id_of_trial(trial)))
            save_note(noted, to_markdown(trial_note(data, trial.number)))
    for figure in FIGURES:
        save_plotly_graph_object(shadow, figure.draw(data), graph_object_id=figure.key)
    # Another worker may add the same pieces in between.
    return repeated(lambda: _write(study, attributes), also_same_rows=True)


def study_note(data: StudyData) -> list[Block]:
    """The text of the page before its figures."""
    return [
        Heading(f"Study {data.name}", 2),
        Paragraph(subject(data)),
        Bullets(story(data)),
        *front_section(data),
        *baseline_section(data),
        Heading("Next"),
        Code("\n".join(next_commands(data)[1:])),
        Paragraph(
            "The numbered figures below are made by dtme-search. In the dashboard's own plots, trials above "
            "a limit are grey when `dtme-search dashboard` serves them; a trial that reused a result says "
            "so in its note."
        ),
    ]


@dataclass
class _Attributes:
    """Stands in for Optuna's storage: collects what the dashboard's functions write, for one transaction."""

    known: Mapping[str, Any]
    written: dict[str, Any] = field(default_factory=dict)

    def get_study_system_attrs(self, _study_id: int) -> Mapping[str, Any]:
        return self.known

    def set_study_system_attr(self, _study_id: int, key: str, value: Any) -> None:
        self.written[key] = value

    def changes(self) -> dict[str, Any]:
        """What differs from the database; a note with the same text keeps its version."""
        return {
            key: value
            for key, value in self.written.items()
            if self.known.get(key) != value and not (is_version(key) and self._same_note(key))
        }

    def _same_note(self, version_key: str) -> bool:
        prefix = pieces_of(version_key)
        return version_key in self.known and all(
            self.known.get(key) == value for key, value in self.written.items() if key.startswith(prefix)
        )


@dataclass(frozen=True)
class _Noted:
    """What ``save_note`` needs of a trial; Optuna allows notes on its own trials only while they run."""

    study: optuna.Study
    _trial_id: int

    @property
    def storage(self) -> Any:
        return storage_of(self.study)


def _write(study: LoadedStudy, attributes: _Attributes) -> int:
    study_id = id_of_study(study.optuna)
    with Session(study.records.engine) as session, session.begin():
        query = select(Attribute.key, Attribute.study_system_attribute_id).where(
            Attribute.study_id == study_id
        )
        ids = {row.key: row.study_system_attribute_id for row in session.execute(query)}
        changes = attributes.changes()
        values = {key: json.dumps(value) for key, value in changes.items()}
        # Otherwise pieces that another worker wrote in between would remain behind a shorter text.
        texts = {_text_of(key) for key in changes}
        values |= {
            key: '""'
            for key in ids.keys() - attributes.known.keys() - attributes.written.keys()
            if _text_of(key) in texts
        }
        new = [
            {"study_id": study_id, "key": key, "value_json": value}
            for key, value in values.items()
            if key not in ids
        ]
        old = [
            {"study_system_attribute_id": ids[key], "value_json": value}
            for key, value in values.items()
            if key in ids
        ]
        if new:
            session.execute(insert(Attribute), new)
        if old:
            session.execute(update(Attribute), old)
    return len(values)


def _text_of(key: str) -> str:
    """The item that a numbered piece of a note or figure belongs to."""
    return key.rsplit(":", 1)[0]
