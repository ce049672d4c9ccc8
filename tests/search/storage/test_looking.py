"""Looking writes nothing, and needs no right to write."""

from __future__ import annotations

import hashlib
import os

import pytest

from dtme_search.search import load_study
from dtme_search.search.storage import looking
from dtme_search.search.storage.looking import readable_url

pytestmark = pytest.mark.slow


def contents(folder):
    """Whatever SQLite needs beside its file while it is open is gone or empty afterwards."""
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".db-shm", ".db-wal")
    }


def test_looking_at_a_study_writes_nothing(finished_study):
    before = contents(finished_study.workdir)
    found = load_study("tiny", workdir=finished_study.workdir)
    assert found.records.runs("tiny")
    found.records.engine.dispose()
    assert contents(finished_study.workdir) == before


def test_a_study_that_can_only_be_read_is_looked_at_in_a_copy(finished_study, monkeypatch):
    real = os.access
    monkeypatch.setattr(looking.os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
    before = contents(finished_study.workdir)
    found = load_study("tiny", workdir=finished_study.workdir)
    assert str(finished_study.workdir) not in str(found.records.engine.url)
    assert len(found.records.runs("tiny")) == len(finished_study.study.records.runs("tiny"))
    assert contents(finished_study.workdir) == before


@pytest.mark.parametrize("url", ["postgresql://host/base", "sqlite:////nowhere/study.db"])
def test_other_databases_are_themselves(url):
    assert readable_url(url) == url
