"""Environment variables of every kind, good and bad: a right value, or one line; nothing else is written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import test_fuzz
from hypothesis import given, settings
from hypothesis import strategies as st

from dtme_search.data.reading.cache import cache_limit_gb, open_cache
from dtme_search.errors import DtmeSearchError
from dtme_search.search import load_study
from dtme_search.search.workers.places import places_for, visible_gpus

pytestmark = pytest.mark.slow

bounded = settings(test_fuzz.bounded, max_examples=100)
NUMBERS = ["", "0", "1", "3", "-1", "007", "1e3", "²", "٣", " 2 ", "4,2", ",", "many", "nan", "inf", "9" * 30]
CARDS = ["", "0", "0,1", "-1", "NoDevFiles", "GPU-1b2c", "MIG-1/2", ",", " 1 , 2 ", "é", "0,0", "99"]
FOLDERS = [
    "",
    ".",
    "cache",
    "no/such/folder",
    "file",
    "file/below",
    "~nobody-here",
    "x" * 300,
    "é 💥",
    "/dev/null",
]
PLACES = [
    *("", "nonsense", "sqlite://", "sqlite:///", "sqlite:///no/folder/x.db", "sqlite:////dev/null"),
    *(
        "sqlite:///file",
        "sqlite:///é💥.db",
        "sqlite:///" + "x" * 300,
        "postgresql://",
        "postgresql://a:b@[::1/x",
    ),
    *("postgresql://a:s3cret@127.0.0.1:1/x", "mysql://a:s3cret@127.0.0.1:1/x", "mysql+nodriver://h/x", "://"),
    *("postgresql://a:s3cret@127.0.0.1:99999/x", "postgresql://a:s3cret@127.0.0.1:port/x", "redis://h/0"),
]


def one_line(work):
    """What ``work`` gives, or nothing after one line that shows no password."""
    try:
        return work()
    except DtmeSearchError as error:
        text = str(error)
        assert text.strip() and "\n" not in text and "s3cret" not in text
        return None
    except OSError as error:  # the command says which file, and what the system said
        assert error.filename is not None and error.errno != errno.ENOENT
        return None


def odd(values: list[str]) -> st.SearchStrategy[str]:
    """One of those, or any text that an environment variable can hold."""
    anything = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\0/"), max_size=12)
    return st.one_of(st.sampled_from(values), anything)


@bounded
@given(threads=odd(NUMBERS), cards=odd(CARDS), workers=st.integers(1, 3))
def test_threads_and_cards_of_workers(threads, cards, workers):
    given_threads = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": "2"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", cards)
        one_line(visible_gpus)
        for place in places_for(workers, device="cpu", gpus=[]):
            count = place.threads(workers, 8, given_threads)
            assert 1 <= count <= 4096
            environment = place.environment(workers, 8, given_threads)
            assert int(environment["OMP_NUM_THREADS"]) == count, "every part of a worker reads the same"
            assert environment["MKL_NUM_THREADS"] == "2"


@bounded
@given(size=odd(NUMBERS), folder=odd(FOLDERS))
def test_the_cache(tmp_path, size, folder):
    (tmp_path / "file").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("HOME", str(tmp_path))
        patch.setenv("DTME_CACHE", folder)
        patch.setenv("DTME_CACHE_GB", size)
        limit = one_line(cache_limit_gb)
        assert limit is None or limit > 0
        one_line(open_cache)
    assert (tmp_path / "file").stat().st_size == 0
    assert not (tmp_path / "~nobody-here").exists()


@bounded
@given(storage=odd(PLACES))
def test_the_place_of_the_studies(tmp_path, storage):
    (tmp_path / "file").write_text("a diary, and no database")
    before = sorted(tmp_path.iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("DTME_STORAGE", storage)
        assert one_line(lambda: load_study("tiny", workdir=Path("runs"))) is None
    assert sorted(tmp_path.iterdir()) == before, "looking makes nothing"
    assert (tmp_path / "file").read_text() == "a diary, and no database"


NAMES = [
    "TMPDIR",
    "HOME",
    "LANG",
    "LC_ALL",
    "TERM",
    "COLUMNS",
    "LINES",
    "XDG_CACHE_HOME",
    "NO_COLOR",
    "EDITOR",
]


@pytest.mark.parametrize("value", ["", "-5", "/no/such/folder", "é💥"])
def test_what_shells_and_containers_set(tmp_path, value):
    command = [sys.executable, "-m", "dtme_search", "show", "--study", "tiny"]
    inherited = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    environment = inherited | dict.fromkeys(NAMES, value)
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 2 and ran.stdout == ""
    assert ran.stderr.startswith("dtme-search: ") and "no such database" in " ".join(ran.stderr.split())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "words",
    [("data", "check", "nyud", "--data-root"), ("optimize", "--study", "nyud", "--data-root")],
    ids=lambda words: words[0],
)
def test_a_home_that_nobody_has(tmp_path, words):
    """As in containers that run as a user without a name."""
    command = [sys.executable, "-m", "dtme_search", *words, "~nobody-here/nyud"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "~nobody-here/nyud" in ran.stderr and "Traceback" not in ran.stderr
