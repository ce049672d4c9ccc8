"""Malformed weights, MATLAB files and databases: a right value, or one line. No other error."""

from __future__ import annotations

import io
import sqlite3
from contextlib import closing

import numpy as np
import pytest
import scipy.io
import test_fuzz
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as as_safetensors
from test_fuzz import one_line, spoilt

from dtme_search.data.nyud.mat import inspect_mat, read_class_mapping, read_split
from dtme_search.data.pascal_context.labels import read_parts
from dtme_search.errors import DtmeSearchError
from dtme_search.models.weights import read_weights
from dtme_search.search import load_study

pytestmark = pytest.mark.slow

bounded = settings(test_fuzz.bounded, max_examples=100)
WEIGHTS = {
    "backbone.blocks.0.attn.qkv.weight": torch.arange(12.0).reshape(3, 4),
    "cls_token": torch.ones(1, 1, 4),
}


def matlab(**variables) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables)
    return buffer.getvalue()


def torch_file(values) -> bytes:
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()


WEIGHT_FILES = {
    "w.safetensors": as_safetensors(WEIGHTS),
    "w.pt": torch_file({"model": WEIGHTS}),
    "old.pth": torch_file(WEIGHTS),
}
PARTS = {"objects": np.array([[(1.0, np.ones((4, 5)))]], dtype=[("class_ind", object), ("mask", object)])}


@bounded
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")  # torch and scipy warn of some damaged files, before they refuse them
def test_weights(tmp_path, data):
    name = data.draw(st.sampled_from(sorted(WEIGHT_FILES)))
    path = tmp_path / name
    path.write_bytes(data.draw(spoilt(WEIGHT_FILES[name])))
    found = one_line(read_weights, path, "model.checkpoint")
    assert found is None or all(isinstance(value, torch.Tensor) for value in found.values())


@bounded
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_matlab_files_of_version_5(tmp_path, data):
    path = tmp_path / "a.mat"
    splits = matlab(
        trainNdxs=np.arange(1, 5), testNdxs=np.arange(5, 7), mapClass=np.arange(1, 41), anno=PARTS
    )
    path.write_bytes(data.draw(spoilt(splits)))
    split = one_line(read_split, path, 6)
    assert split is None or set(split) == {"train", "val"}
    mapping = one_line(read_class_mapping, path, ["a"] * 40)
    assert mapping is None or (mapping.shape == (41,) or len(mapping) >= 41)
    one_line(read_parts, path)


def test_found_elements_that_run_past_what_holds_them(tmp_path):
    """The name of a variable is longer than the variable, which ended the process, not only the reading."""
    path, content = tmp_path / "a.mat", bytearray(matlab(trainNdxs=np.arange(1, 5), testNdxs=np.arange(5, 7)))
    path.write_bytes(content)
    assert set(read_split(path, 6)) == {"train", "val"}
    content[content.index(b"trainNdxs") - 4] = 0xFD
    path.write_bytes(content)
    with pytest.raises(DtmeSearchError, match="an element does not fit"):
        read_split(path, 6)


@bounded
@given(data=st.data())
def test_matlab_files_of_version_7(tmp_path, data):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "n.mat"
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((2, 3, 640, 480), np.uint8)
        for name in ("depths", "labels", "instances"):
            file[name] = np.zeros((2, 640, 480), np.uint8)
    content = path.read_bytes()
    path.write_bytes(data.draw(spoilt(content[:4000])) + content[4000:])
    one_line(inspect_mat, path)


CHANGES = [
    *(f"DROP TABLE {name}" for name in ("trials", "studies", "dtme_runs", "version_info", "dtme_schema")),
    "UPDATE dtme_schema SET version = 99",
    "UPDATE version_info SET schema_version = 99",
    "UPDATE study_user_attributes SET value_json = '{'",
    "UPDATE study_user_attributes SET value_json = '[]'",
    "DELETE FROM study_user_attributes",
    "ALTER TABLE dtme_runs RENAME COLUMN state TO condition",
    "ALTER TABLE trials RENAME TO attempts",
    "DELETE FROM alembic_version",
]


@pytest.mark.parametrize("change", CHANGES)
def test_databases_that_others_changed(finished_study, tmp_path, change):
    path = copied(finished_study, tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(change)
        connection.commit()
    look_at(path)


@bounded
@given(data=st.data())
def test_damaged_databases(finished_study, tmp_path, data):
    path = copied(finished_study, tmp_path)
    path.write_bytes(data.draw(spoilt(path.read_bytes()[: data.draw(st.sampled_from([4096, 10**9]))])))
    look_at(path)


def test_a_database_of_another_program(tmp_path):
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(DtmeSearchError):
        load_study("tiny", storage=f"sqlite:///{path}")
    assert path.read_bytes() == before


def copied(study, folder):
    for name in ("study.db", "study.db-wal", "study.db-shm"):
        (folder / name).unlink(missing_ok=True)
    source = sqlite3.connect(study.study.records.engine.url.database)
    with closing(source), closing(sqlite3.connect(folder / "study.db")) as target:
        source.backup(target)
    with closing(sqlite3.connect(folder / "study.db")) as target:
        target.execute("PRAGMA journal_mode=DELETE")
    return folder / "study.db"


def look_at(path):
    def look(file):
        loaded = load_study("tiny", storage=f"sqlite:///{file}")
        try:
            return loaded.name
        finally:
            loaded.records.engine.dispose()

    assert one_line(look, path) in (None, "tiny")
