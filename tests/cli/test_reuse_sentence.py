"""What ``optimize`` and ``show`` say about shared work, and how it is switched off."""

from __future__ import annotations

import re

import pytest
from tiny import grown, write_tiny_study

pytestmark = pytest.mark.slow

SENTENCE = r"Trained 75 % of the steps \(trunks 25 %\), saved \d+ seconds\."


def test_savings_are_told_and_no_reuse_saves_nothing(run, tmp_path):
    """Ten steps without growth; of ten more the first five are the same."""
    points = [{"expansion.policy": "none"}, grown("modulate", "none", "none")]
    file = write_tiny_study(tmp_path, {"tasks": {"semseg": {}, "depth": {}}}, trials=2, enqueue=points)
    options = ("--study", file, "--device", "cpu", "--workdir")

    done = run("optimize", *options, "without", "--no-reuse")
    assert done.code == 0 and "Best: trial" in done.out and "of the steps" not in done.out
    assert not (tmp_path / "without" / "tiny" / "trunks").exists()

    done = run("optimize", *options, "with")
    assert done.code == 0 and re.search(SENTENCE, " ".join(done.out.split()))
    shown = run("show", "--study", "tiny", "--workdir", "with")
    assert re.search(SENTENCE, " ".join(shown.out.split()))
