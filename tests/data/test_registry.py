"""Data sets by name, and where their folder comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_dataset import FakeDataset

from dtme_search.config import DataConfig
from dtme_search.data import build_dataset, registry, resolve_root
from dtme_search.errors import ConfigError


def test_a_name_finds_its_builder(monkeypatch):
    dataset = FakeDataset()
    monkeypatch.setitem(registry.BUILDERS, "fake", lambda config, require_complete: dataset)
    assert build_dataset(DataConfig(name="fake")) is dataset


def test_an_unknown_name_tells_the_nearest():
    with pytest.raises(
        ConfigError, match=r"data\.name: no data set is named 'scens'\. Did you mean 'scenes'\?"
    ):
        build_dataset(DataConfig(name="scens"))


def test_the_root_comes_from_the_config_then_the_environment(monkeypatch):
    monkeypatch.setenv("DTME_DATA_ROOT", "/from/environment")
    assert resolve_root(DataConfig(root="/from/config")) == Path("/from/config")
    assert resolve_root(DataConfig()) == Path("/from/environment")
    monkeypatch.setenv("HOME", "/home/someone")
    assert resolve_root(DataConfig(root="~/data")) == Path("/home/someone/data")


def test_a_data_set_without_a_root_says_how_to_give_one(monkeypatch):
    monkeypatch.delenv("DTME_DATA_ROOT", raising=False)
    with pytest.raises(
        ConfigError, match=r"data\.root must name the folder.*'nyud'.*--data-root.*DTME_DATA_ROOT"
    ):
        build_dataset(DataConfig(name="nyud"))
