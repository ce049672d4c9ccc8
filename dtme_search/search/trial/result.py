"""The result of a trial: on disk before it is reported, so that trouble with a database cannot lose it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna

from dtme_search.search.storage.records import Records
from dtme_search.search.storage.rows import RunRow

_log = logging.getLogger(__name__)

_TIMES = ("started_at", "finished_at")


@dataclass(frozen=True)
class Result:
    """Everything that is reported about a finished trial.

    Attributes:
        row: Facts of its run.
        attributes: Its user attributes.
        constraints: Limit -> by how much it is exceeded.
        values: Values of the study's objectives.
    """

    row: RunRow
    attributes: Mapping[str, Any]
    constraints: Mapping[str, float]
    values: tuple[float, ...]

    def save(self, path: Path) -> None:
        """Write it atomically: a reader sees all of it or nothing."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), default=datetime.isoformat), encoding="utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path, trial: int) -> Result | None:
        """The result of a trial; ``None`` if there is none, it belongs to another trial, or is unreadable."""
        try:
            form = json.loads(path.read_text(encoding="utf-8"))
            row = form["row"]
            row |= {name: datetime.fromisoformat(row[name]) for name in _TIMES if row[name]}
            found = cls(RunRow(**row), form["attributes"], form["constraints"], tuple(form["values"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s cannot be read (%s); the trial resumes from its checkpoint.", path, error)
            return None
        return found if found.row.trial == trial else None

    def write_down(self, trial: optuna.Trial, records: Records) -> None:
        """Report everything except the values; may be repeated after a crash in the middle.

        The row has state complete, so it comes last.

        Raises:
            optuna.exceptions.UpdateFinishedTrialError: If the trial was treated as dead and ended.
        """
        for name, value in self.attributes.items():
            trial.set_user_attr(name, value)
        for name, violation in self.constraints.items():
            # Optuna keeps the first value of a constraint, and warns about a second one.
            if name not in trial.constraints:
                trial.set_constraint(name, violation)
        records.save_complete(self.row)
