"""Content decides what a data set is; a file is read once, until the file system says that it changed."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
from fake_dataset import FakeDataset
from nyud_folder import write_nyud
from own_folder import write_own

from dtme_search.config import DataConfig, FolderConfig
from dtme_search.data import build_data, build_dataset
from dtme_search.data.reading import digests
from dtme_search.data.reading.digests import content_digests, forget_digests


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DTME_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "data"
    place.mkdir()
    for index in range(3):
        (place / f"{index}.npy").write_bytes(bytes([index]) * 100)
    return place


def read_by(monkeypatch):
    seen = []
    real = digests.content_digest
    monkeypatch.setattr(digests, "content_digest", lambda path: (seen.append(path.name), real(path))[1])
    return seen


def test_a_file_is_hashed_once(folder, monkeypatch):
    monkeypatch.setattr(digests, "_SETTLED_SECONDS", 0.0)
    paths = [*sorted(folder.iterdir()), folder / "absent.npy"]
    seen = read_by(monkeypatch)
    first = content_digests(folder, paths)
    assert first[-1] is None and len(set(first[:-1])) == 3 and len(seen) == 3
    assert content_digests(folder, paths) == first and len(seen) == 3
    (folder / "1.npy").write_bytes(b"x" * 100)  # the size stays
    again = content_digests(folder, paths)
    assert seen[3:] == ["1.npy"] and [a == b for a, b in zip(first, again, strict=True)] == [
        True,
        False,
        True,
        True,
    ]
    forget_digests()
    assert content_digests(folder, paths) == again and len(seen) == 7


def test_a_time_that_was_set_back_does_not_hide_a_change(folder, monkeypatch):
    monkeypatch.setattr(digests, "_SETTLED_SECONDS", 0.0)
    path = folder / "0.npy"
    facts = path.stat()
    before = content_digests(folder, [path])
    path.write_bytes(b"y" * 100)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert content_digests(folder, [path]) != before


def test_a_file_that_was_just_written_is_not_believed(folder, monkeypatch):
    seen = read_by(monkeypatch)
    path = folder / "0.npy"
    content_digests(folder, [path])
    content_digests(folder, [path])
    assert seen == ["0.npy", "0.npy"]


@pytest.mark.parametrize("content", ["", "[1, 2]", "{broken"])
def test_a_spoilt_cache_only_costs_time(folder, monkeypatch, content):
    monkeypatch.setattr(digests, "_SETTLED_SECONDS", 0.0)
    paths = sorted(folder.iterdir())
    before = content_digests(folder, paths)
    place = next((folder.parent / "cache" / "digests").glob("*.json"))
    place.write_text(content)
    assert content_digests(folder, paths) == before


FAMILIES = {"folder": write_own, "nyud": write_nyud}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", FAMILIES)
def test_any_changed_file_makes_other_data(tmp_path, name, split):
    """Whatever its size, and in whatever sample; of the test split for final runs alone."""
    root = tmp_path / "root"
    written = FAMILIES[name](root)
    config = (
        DataConfig(name="folder", folder=FolderConfig(description=str(written)), image_size=(32, 48))
        if name == "folder"
        else DataConfig(name=name, root=str(written), image_size=(24, 32))
    )

    def identities():
        dataset = build_dataset(config)
        return dataset.fingerprint, (dataset.fingerprint, dataset.test_fingerprint)

    before = identities()
    dataset = build_dataset(config)
    sample_id = dataset.ids(split)[-1]
    changed = [path for path in root.rglob("*") if path.is_file() and sample_id in path.name]
    assert changed
    for path in changed:
        content = path.read_bytes()
        # The size stays.
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        search, final = identities()
        assert final != before[1], path
        assert (search != before[0]) == (split == "train"), path
        path.write_bytes(content)
    assert identities() == before


def test_a_copy_is_the_same_data(tmp_path):
    file = write_own(tmp_path / "a")
    np.save(tmp_path / "unrelated.npy", np.zeros(3))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    config = [
        DataConfig(name="folder", folder=FolderConfig(description=str(tmp_path / place / file.name)))
        for place in "ab"
    ]
    assert build_dataset(config[0]).fingerprint == build_dataset(config[1]).fingerprint


@pytest.mark.parametrize("final", [False, True])
def test_only_final_runs_ask_for_the_content_of_the_test_split(final):
    dataset = FakeDataset()
    config = DataConfig(name="fake", image_size=(12, 20), holdout_fraction=0.4)

    def identity(content):
        dataset.test_fingerprint = content
        return build_data(config, ["depth"], torch.device("cpu"), final=final, dataset=dataset).fingerprint

    assert (identity("a") != identity("b")) == final
