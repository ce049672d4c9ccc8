"""The template for plug-ins is installed as a user would, listed, tested and searched with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dtme_search.plugins import FAMILIES

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "plugin"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a command in a copy of the template, with the template installed in a folder of its own."""
    folder = tmp_path_factory.mktemp("plugin")
    installed, here = folder / "installed", folder / "here"
    here.mkdir()
    for name in ("study.yaml", "tests"):
        (here / name).symlink_to(EXAMPLE / name)
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    paths = os.pathsep.join((str(installed), str(ROOT)))
    env = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=here, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    copied = folder / "source"
    subprocess.run(["cp", "-r", str(EXAMPLE), str(copied)], check=True)
    run(*pip, "--target", str(installed), str(copied))
    return run


def test_every_family_is_listed(run):
    shown = run("-m", "dtme_search", "plugins")
    for family in ("convit", "wave", "shift", "huber", "delta_1", "ramp", "running", "halton"):
        assert family in shown
    assert "wave-parts" in shown and "0.1.0" in shown
    assert {name for name, word in FAMILIES.items() if word not in shown} == {"datasets", "trackers"}


def test_its_own_tests_pass(run):
    assert "8 passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")


def test_a_study_uses_its_parts(run):
    run("-m", "dtme_search", "optimize", "--study", "study.yaml")
    shown = run("-m", "dtme_search", "show", "--study", "study.yaml")
    assert "3 complete" in shown
