"""MATLAB files of version 5: whatever is whole is read as scipy reads it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from dtme_search.data.reading.matlab import read_matlab

STRUCT = np.array([[(1.0, "name"), (np.ones((2, 0)), "")]], dtype=[("number", object), ("text", object)])
WHOLE = {
    **{
        f"of_{name}": np.arange(6, dtype=name).reshape(2, 3) for name in ("uint8", "int16", "int32", "uint64")
    },
    "single": np.float32([[1.5]]),
    "double": np.linspace(0, 1, 24).reshape(2, 3, 4),
    "complex": np.array([[1 + 2j, 3 - 4j]]),
    "logical": np.array([[True, False]]),
    "text": "zwölf",
    "texts": np.array(["a", "bcd"]),
    "empty": np.zeros((0, 3)),
    "cells": np.array([[1.0, "a"], [np.zeros((0, 0)), np.arange(3)]], dtype=object),
    "struct": STRUCT,
    "nested": {"inner": {"cells": np.array([STRUCT, 5.0], dtype=object)}, "flag": np.array([[True]])},
}


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_whole_files_are_read(tmp_path, compressed):
    path = tmp_path / "whole.mat"
    savemat(path, WHOLE, do_compression=compressed)
    found, there = read_matlab(path), loadmat(path)
    assert set(WHOLE) <= set(found) and set(found) == set(there)
    for name in WHOLE:
        assert found[name].dtype == there[name].dtype and repr(found[name]) == repr(there[name])
    assert {name for name in read_matlab(path, ["text"]) if not name.startswith("__")} == {"text"}
