"""What is kept between runs is unpickled, so nobody else may have written it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dtme_search.data.reading import cache
from dtme_search.data.reading.cache import cached_files, open_cache, trim_cache
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


def test_what_was_used_longest_ago_goes_until_the_rest_fits(tmp_path, monkeypatch):
    monkeypatch.setenv("DTME_CACHE_GB", str(2.5 / 1024))
    monkeypatch.setattr(cache, "_IN_USE_SECONDS", 10.0)
    now = time.time()
    for age, name in ((400, "old"), (300, "older-but-read-lately"), (200, "middle"), (0, "in-use")):
        path = tmp_path / "scenes" / f"{name}.npz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 2**20)
        os.utime(path, (now - (100 if "read" in name else age), now - age))

    def left() -> set[str]:
        return {path.stem for path in cached_files(tmp_path)}

    assert trim_cache(tmp_path) == pytest.approx(2 / 1024)
    assert left() == {"older-but-read-lately", "in-use"}
    monkeypatch.setenv("DTME_CACHE_GB", str(0.5 / 1024))
    assert trim_cache(tmp_path) == 0.0, "not again so soon"
    os.utime(tmp_path / ".trimmed", (now - 100, now - 100))
    trim_cache(tmp_path)
    assert left() == {"in-use"}, "what somebody may be reading stays"
