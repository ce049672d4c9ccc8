"""Data sets that an installed package brings: a real distribution in a folder on the path."""

from __future__ import annotations

import sys

import pytest

from dtme_search.config import DataConfig
from dtme_search.data import build_dataset
from dtme_search.errors import ConfigError, DataError

MODULE = """
from pathlib import Path
from fake_dataset import FakeDataset
from dtme_search.errors import DataError

def open_orchard(root, options):
    if root is None:
        raise DataError("orchard: needs data.root.")
    assert isinstance(root, Path)
    return FakeDataset(num_train=options.get("trees", 10))

def open_half(root, options):
    return object()

def open_wrong(root):
    return FakeDataset()

def open_buggy(root, options):
    return 1 / 0
"""
ENTRIES = """
[dtme_search.datasets]
orchard = orchard_data:open_orchard
half = orchard_data:open_half
wrong = orchard_data:open_wrong
gone = orchard_data:open_gone
absent = orchard_data_absent:open
buggy = orchard_data:open_buggy
scenes = orchard_data:open_half
"""


@pytest.fixture(autouse=True)
def _orchard_package(tmp_path, monkeypatch):
    (tmp_path / "orchard_data.py").write_text(MODULE)
    info = tmp_path / "orchard_data-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: orchard-data\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "orchard_data", raising=False)
    yield
    sys.modules.pop("orchard_data", None)


def test_it_is_opened_by_its_name_with_root_and_options(tmp_path):
    dataset = build_dataset(DataConfig(name="orchard", root=str(tmp_path), options={"trees": 6}))
    assert len(dataset.ids("train")) == 6
    assert dataset.read("a001", ("semseg",)).image.shape == (12, 20, 3)


def test_its_own_errors_reach_the_user_as_they_are():
    with pytest.raises(DataError, match=r"^orchard: needs data\.root\.$"):
        build_dataset(DataConfig(name="orchard"))


def test_a_bug_in_it_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        build_dataset(DataConfig(name="buggy"))


def test_a_built_in_name_cannot_be_taken():
    assert "semseg" in build_dataset(DataConfig(name="scenes")).tasks


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "half",
            r"'half' of package orchard-data: the result of orchard_data:open_half must have .* got no tasks",
        ),
        (
            "wrong",
            r"orchard_data:open_wrong must be a function of root and options, got an error: .*takes 1 pos",
        ),
        ("gone", r"got an error: .*has no attribute 'open_gone'.*Fix or update the package"),
        ("absent", r"got an error: No module named 'orchard_data_absent'"),
        ("orchad", r"data\.name: no data set is named 'orchad'\. Did you mean 'orchard'"),
    ],
)
def test_what_is_no_data_set_is_told_in_one_line(name, message):
    with pytest.raises(ConfigError, match=message):
        build_dataset(DataConfig(name=name))


def test_options_are_for_these_only():
    with pytest.raises(
        ConfigError, match=r"data\.options must be empty for data set 'scenes', got \['trees'\]"
    ):
        build_dataset(DataConfig(name="scenes", options={"trees": 6}))
