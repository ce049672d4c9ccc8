"""Commands run in this process: a process of its own would import timm again for every test."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from dtme_search.cli import main


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path) -> Callable[..., Ran]:
    """Run ``dtme-search WORDS`` in an empty folder, 80 columns wide and on no terminal."""
    logger = logging.getLogger("dtme_search")
    level = logger.level
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["dtme-search", *map(str, words)])
        try:
            main()
        except SystemExit as done:
            return Ran(done.code or 0, *capsys.readouterr())
        raise AssertionError("a command must end with an exit code")

    yield call
    logger.setLevel(level)
    logger.handlers.clear()
