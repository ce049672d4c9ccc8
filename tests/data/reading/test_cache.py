"""What is kept between runs is unpickled, so nobody else may have written it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dtme_search.data.reading.cache import open_cache
from dtme_search.errors import DataError


@pytest.mark.parametrize("mode", [None, 0o777, 0o770, 0o755])
def test_the_folder_is_ones_own(tmp_path, mode):
    folder = tmp_path / "cache"
    if mode is not None:
        folder.mkdir()
        folder.chmod(mode)
    open_cache(folder)
    assert folder.stat().st_mode & 0o022 == 0
    assert mode is not None or folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_somebody_else_is_refused(tmp_path, monkeypatch):
    real = Path.stat

    def of_a_stranger(self, **options):
        facts = list(real(self, **options))
        facts[4] = 12345
        return os.stat_result(facts)

    monkeypatch.setattr(Path, "stat", of_a_stranger)
    with pytest.raises(DataError, match="must be your own, got one of user 12345"):
        open_cache(tmp_path)
