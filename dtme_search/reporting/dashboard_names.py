"""Names that optuna-dashboard uses among Optuna's attributes; none of them is documented.

``tests/reporting/test_dashboard_names.py`` checks that it still does, and pyproject.toml keeps it below the
next minor version.
"""

from __future__ import annotations

import re

TRIAL_NOTE = re.compile(r"dashboard:(?P<trial>\d+):note_(ver|str:(?P<piece>\d+))$")
"""Attribute of a study with the version, or a piece, of the note of a trial."""


def note_version(trial_id: int) -> str:
    """Attribute that says that a trial has a note."""
    return f"dashboard:{trial_id}:note_ver"


def is_version(key: str) -> bool:
    """Whether an attribute counts the changes of a note."""
    return key.endswith("note_ver")


def pieces_of(version: str) -> str:
    """Prefix of the attributes with the text of the note that has this version attribute."""
    return version.removesuffix("note_ver") + "note_str:"
