"""Malformed files of every kind that a user writes: a right value, or one line. No other error."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from own_folder import DESCRIPTION, write_own
from PIL import Image
from tiny import SEARCH, TINY

from dtme_search.config import (
    DataConfig,
    FolderConfig,
    FolderTask,
    load_description,
    load_run_config,
    load_study_config,
)
from dtme_search.data import build_dataset, read_image, split_ids
from dtme_search.data.folder.label_files import read_label
from dtme_search.data.reading.files import read_class_ids, read_depth, read_mask, read_normals
from dtme_search.errors import DtmeSearchError

pytestmark = pytest.mark.slow

bounded = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    print_blob=True,
)
PHOTO = np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8)
CLASSES = (np.indices((9, 13))[0] // 4).astype(np.uint8)
ODD = [
    *(
        None,
        True,
        -1,
        0,
        1,
        2**70,
        -(2**70),
        1e400,
        float("nan"),
        "",
        " ",
        "{id}",
        "../x",
        "x" * 300,
        "\0",
    ),
    *([], {}, [[]], {"a": {}}, {1: 2}, [None], "1e5", "no", "#ff0000", 0.5, [1, "a"], "é", "💥", "${HOME}"),
]
KEYS = [each for each in ODD if not isinstance(each, (list, dict))]


def encoded(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **options)
    return buffer.getvalue()


def as_npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


SEEDS = {
    "a.png": encoded(PHOTO, format="PNG"),
    "grey.png": encoded(CLASSES, format="PNG"),
    "deep.png": encoded(CLASSES.astype(np.uint16) * 1000, format="PNG"),
    "a.jpg": encoded(PHOTO, format="JPEG"),
    "a.tif": encoded(CLASSES, format="TIFF"),
    "float.tif": encoded(CLASSES.astype(np.float32), format="TIFF"),
    "a.bmp": encoded(CLASSES, format="BMP"),
    "a.gif": encoded(CLASSES, format="GIF"),
    "a.webp": encoded(PHOTO, format="WEBP"),
    "int.npy": as_npy(CLASSES),
    "float.npy": as_npy(CLASSES.astype(np.float32)),
    "normals.npy": as_npy(PHOTO.astype(np.float64)),
}
"""Files as they should be; what is tried has bytes changed, cut out, doubled or put in."""


@st.composite
def spoilt(draw, content):
    content = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        # Headers decide more than pixels.
        place = min(place, draw(st.sampled_from([20, 80, 200, 10**9])))
        match draw(st.sampled_from(["change", "cut", "drop", "put", "double"])):
            case "change" if content:
                content[place] = draw(st.integers(0, 255))
            case "cut":
                del content[place:]
            case "drop":
                del content[place : place + draw(st.integers(1, 30))]
            case "put":
                content[place:place] = draw(st.binary(min_size=1, max_size=8))
            case "double":
                content[place:place] = content[place : place + 40]
    return bytes(content)


def one_line(work, *arguments):
    """What ``work`` gives, or nothing after an error of ours in one line."""
    try:
        return work(*arguments)
    except DtmeSearchError as error:
        # A name of a YAML may hold a line break; the command joins the lines of a message.
        assert str(error).strip() and ("\n" not in str(error) or arguments[0].suffix == ".yaml")
        return None


TASKS = [
    FolderTask(files="{id}.png", kind="classes", classes=["a", "b", "c"]),
    FolderTask(
        files="{id}.png", kind="classes", classes={"a": "#000000", "b": "#ffffff"}, encoding="colours"
    ),
    FolderTask(files="{id}.png", kind="mask"),
    FolderTask(files="{id}.png", kind="distance"),
    FolderTask(files="{id}.png", kind="normals"),
    FolderTask(files="{id}.png", kind="values"),
]


@bounded
@given(data=st.data())
# What Pillow says of tags that it cannot read is no error.
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_pictures_and_labels(tmp_path, data):
    name = data.draw(st.sampled_from(sorted(SEEDS)))
    path = tmp_path / name
    path.write_bytes(data.draw(spoilt(SEEDS[name])))
    image = one_line(read_image, path)
    assert image is None or (image.dtype == np.uint8 and image.shape[2:] == (3,))
    for read in (read_class_ids, read_depth, read_mask, read_normals):
        one_line(read, path)
    for task in TASKS:
        found = one_line(read_label, path, "t", task)
        if found is not None:
            label, valid = found
            assert label.shape[:2] == valid.shape and np.isfinite(label[valid]).all()


def places(values, path=()):
    """Paths of all values in a nested structure."""
    yield path
    items = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for key, value in items:
        yield from places(value, (*path, key))


@st.composite
def odd_yaml(draw, values):
    """YAML with some values or keys replaced by odd ones, and now and then spoilt as text."""
    values = yaml.safe_load(yaml.safe_dump(values))
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from([path for path in places(values) if path]))
        holder = values
        for key in above:
            holder = holder[key]
        if isinstance(holder, dict) and draw(st.integers(0, 3)) == 0:
            odd = draw(st.sampled_from(KEYS))
            holder[odd] = holder.pop(last)
        else:
            holder[last] = copy.deepcopy(draw(st.sampled_from(ODD)))
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return draw(spoilt(text.encode())) if draw(st.integers(0, 4)) == 0 else text.encode()


STUDY = {"name": "s", "trials": 2, "config": TINY, "search": SEARCH, "enqueue": ["unexpanded"], "seed": 1}
GROUPS = [["semseg"], ["depth", "normals"], ["edge"]]
EXPORT = TINY | {
    "expansion": {
        "policy": "fixed",
        "start": 0.5,
        "plan": {"modulate": {1: GROUPS, 2: GROUPS}, "expand": {2: GROUPS}},
    }
}
"""As `export` writes one."""
KINDS = {
    "description": (DESCRIPTION, load_description),
    "run": (TINY, lambda path: load_run_config(str(path))),
    "export": (EXPORT, lambda path: load_run_config(str(path))),
    "study": (STUDY, lambda path: load_study_config(str(path))),
}


@pytest.mark.parametrize("kind", KINDS)
@bounded
@given(data=st.data())
def test_yaml(tmp_path, kind, data):
    values, load = KINDS[kind]
    path = tmp_path / "file.yaml"
    path.write_bytes(data.draw(odd_yaml(values)))
    one_line(load, path)


@bounded
@given(data=st.data())
def test_lists_of_ids_and_groups(tmp_path, data):
    if not (tmp_path / "orchard.yaml").exists():
        file = write_own(tmp_path, groups={"file": "g.txt"}, splits={"train": "a.txt", "test": "b.txt"})
        assert file == tmp_path / "orchard.yaml"
    lists = {
        "a.txt": b"0_0\n0_1\n1_0\n",
        "b.txt": b"2_0\n2_1\n",
        "g.txt": b"0_0 0\n0_1 0\n1_0 1\n2_0 2\n2_1 2\n",
    }
    for name, content in lists.items():
        (tmp_path / "orchard" / name).write_bytes(data.draw(spoilt(content)))
    config = DataConfig(
        name="folder", folder=FolderConfig(description=str(tmp_path / "orchard.yaml")), holdout_fraction=0.5
    )

    def divided():
        return split_ids(build_dataset(config), config, final=True)

    splits = one_line(lambda _: divided(), tmp_path)
    assert splits is None or not set(splits.train) & set(splits.test)
    assert {path.name for path in Path(tmp_path).iterdir()} == {"orchard", "orchard.yaml"}


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_orde",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 9999999), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 4), }",
        b"{'descr': '\0\0', 'fortran_order': False, 'shape': (3, 4), }",
    ],
)
def test_found_headers_of_arrays(tmp_path, header):
    """A header that is cut, and others like it."""
    body = header.ljust(118) + b"\n"
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body + bytes(48))
    with pytest.raises(DtmeSearchError, match=r"a\.npy: the file cannot be read"):
        read_class_ids(path)


@pytest.mark.parametrize(
    "text", ["data: []", "data: [1]", "model: []", "data: {folder: []}", "data: x", "model: 3"]
)
def test_found_lists_in_the_place_of_sections(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(DtmeSearchError, match="must"):
        load_run_config(str(path))
