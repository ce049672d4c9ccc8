"""Looking at a study loads what it needs: seconds of processor time are imports, so these are counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "timm", "scipy", "plotly", "matplotlib", "optuna_dashboard", "joblib", "PIL"}
CODE = """
import json, sys
from dtme_search.cli import main
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def loaded(*words: object) -> set[str]:
    """Packages that a command had loaded when it ended."""
    ran = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, words)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode in (0, 2), ran.stderr
    return {name.partition(".")[0] for name in json.loads(ran.stderr.splitlines()[-1])}


@pytest.mark.parametrize(
    "words",
    [
        ("show",),
        ("show", "--format", "csv"),
        ("show", "--study", "nope"),
        ("studies",),
        ("export", "--out", "{folder}/best.yaml"),
        ("export", "--trial", "2", "--out", "{folder}/refused.yaml"),
    ],
    ids=" ".join,
)
def test_looking_loads_nothing_that_trains_or_draws(finished_study, tmp_path, words):
    where = ("--workdir", finished_study.workdir)
    study = () if words[0] == "studies" or "--study" in words else ("--study", "tiny")
    found = loaded(words[0], *study, *where, *(word.format(folder=tmp_path) for word in words[1:]))
    assert found & HEAVY == set()
    assert "pandas" not in found or words[0] != "studies"


@pytest.mark.parametrize("command", ["report", "optimize", "dashboard"])
def test_help_loads_less_still(command):
    assert loaded(command, "--help") & (HEAVY | {"optuna", "pandas", "sqlalchemy", "rich"}) == set()
