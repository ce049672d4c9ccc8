"""Tab completes commands, options and names of studies."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("sho", ["show"]),
        ("study re", ["rename"]),
        ("show --study mi", ["mine"]),
        ("show --workdir other --study th", ["theirs"]),
        ("show --workdir other --study mi", []),
        ("optimize --study nyud-se", ["nyud-semseg"]),
        ("show --work", ["--workdir"]),
    ],
)
def test_what_tab_offers(run, monkeypatch, typed, found):
    for folder in ("dtme-runs/mine", "other/theirs"):
        Path(folder).mkdir(parents=True)
        Path(folder, "study.db").touch()
    monkeypatch.setenv("_DTME_SEARCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"dtme-search {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split())))
    ran = run()
    assert (ran.code, ran.out.split()) == (0, found)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(run, monkeypatch, shell):
    # Otherwise typer looks for the shell among the parents of this process, and there may be none.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    ran = run("--show-completion", shell)
    assert ran.code == 0 and "_DTME_SEARCH_COMPLETE=complete_" in ran.out
