"""Managing from the command line: what goes is told, asked for, and gone."""

from __future__ import annotations

from pathlib import Path

import pytest

STUDY = ("--study", "tiny", "--workdir", "copied-runs")


@pytest.fixture(autouse=True)
def _copied(study_copy):
    """A study of six trials in the folder of the test."""


def test_a_dry_run_says_what_would_go_and_leaves_it(run):
    ran = run("study", "delete", *STUDY, "--dry-run")
    assert ran.code == 0 and ran.err == ""
    assert ran.out.startswith("Would remove study tiny with 6 trials: 1 file or folder, ")
    assert "6 trials" in ran.out and "6 dtme_runs" in ran.out and "  copied-runs/tiny\n" in ran.out
    assert run("show", *STUDY).code == 0


def test_it_asks_and_an_answer_of_no_changes_nothing(run, monkeypatch):
    monkeypatch.setattr("typer.confirm", lambda *_, **__: (_ for _ in ()).throw(SystemExit(1)))
    assert run("study", "delete", *STUDY).code == 1
    assert run("show", *STUDY).code == 0


def test_delete_trial_then_rename_then_delete_study(run):
    assert run("trial", "delete", *STUDY, "--trial", 3, "--yes").out.startswith("Removed trial 3 of study")
    assert run("show", *STUDY).out.startswith("Study tiny: 4 complete, 1 failed; 5 planned.")
    renamed = run("study", "rename", *STUDY, "--to", "other")
    assert renamed.code == 0 and "Study other: renamed." in renamed.out
    assert "dtme-search show --study other --workdir copied-runs" in renamed.out
    assert run("show", *STUDY).code == 2
    others = ("--study", "other", "--workdir", "copied-runs")
    assert run("study", "clean", *others, "--yes").code == 0
    assert run("show", *others).out.startswith("Study other: 4 complete, 1 failed; 5 planned.")
    assert run("study", "delete", *others, "--yes").code == 0
    assert not Path("copied-runs/other").exists()


def test_the_cache_says_where_it_is_and_is_cleared(run, monkeypatch, tmp_path):
    monkeypatch.setenv("DTME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DTME_CACHE_GB", "2")
    held = tmp_path / "cache" / "scenes" / "a" / "one.npz"
    held.parent.mkdir(parents=True)
    held.write_bytes(b"x" * 2**20)
    shown = run("cache", "show")
    assert f"{tmp_path / 'cache'}: 1.0 MB of at most 2048 MB" in shown.out and "rendered rooms" in shown.out
    assert run("cache", "clear", "--dry-run").code == 0 and held.exists()
    assert run("cache", "clear", "--yes").code == 0 and not held.exists()
    monkeypatch.setenv("DTME_CACHE_GB", "plenty")
    assert "DTME_CACHE_GB must be a number" in run("cache", "show").err


def test_doctor_finds_what_nobody_owns_and_removes_it_when_asked(run):
    lost = Path("copied-runs/tiny/trials/0042")
    lost.mkdir()
    words = ("doctor", "--workdir", "copied-runs")
    looked = " ".join(run(*words).out.split())
    assert "files of study tiny that no trial needs: 1 file or folder" in looked
    assert "--repair` removes it" in looked and lost.exists()
    assert "removed" in run(*words, "--repair").out and not lost.exists()
    assert "leftovers ok none" in " ".join(run(*words).out.split())
