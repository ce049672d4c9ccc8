"""The ``data`` commands, on files of a few kilobytes."""

from __future__ import annotations

import re

import pytest
from mat_file import write_mat
from own_folder import write_own
from PIL import Image


@pytest.mark.parametrize("words", [("data", "check"), ("data", "show", "--out", "sheet.png")])
def test_a_wrong_description_is_one_line(run, tmp_path, words):
    write_own(tmp_path, splits={"test_fraction": 2})
    done = run(*words[:2], "orchard.yaml", *words[2:])
    assert done.code == 2
    assert done.err == "dtme-search: orchard.yaml: splits.test_fraction must be below 1, got 2.\n"


def test_check_tells_how_often_each_class_occurs_in_each_split(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    write_own(tmp_path, 12)
    done = run("data", "check", "orchard.yaml")
    assert done.code == 0
    assert "images train  images holdout  images test" in done.out
    row = next(line.split() for line in done.out.splitlines() if line.startswith("ripeness  green"))
    assert sum(map(int, row[-3:])) == 12
    assert "Every file was read." in done.out


def test_check_names_a_class_that_a_split_has_none_of(run, tmp_path):
    classes = {"soil": "#402000", "leaf": "#00ff00", "fruit": "#ff0000", "bird": "#0000ff"}
    task = {"files": "labels/{id}.png", "kind": "classes", "encoding": "colours", "classes": classes}
    write_own(tmp_path, tasks={"plants": task})
    done = run("data", "check", "orchard.yaml")
    assert done.code == 0
    assert all(f"plants: no {split} image shows bird." in done.out for split in ("train", "holdout", "test"))


def test_check_goes_on_where_labels_are_too_broken_for_a_split(run, tmp_path):
    write_own(tmp_path)
    for path in (tmp_path / "orchard" / "ripe").iterdir():
        path.write_bytes(b"")
    done = run("data", "check", "orchard.yaml")
    assert done.code == 2
    assert done.err.endswith("8 files missing or broken; see the list above.\n")
    assert done.out.count("ripe/") == 8


def test_show_writes_a_sheet_and_reads_only_what_stands_on_it(run, tmp_path):
    write_own(tmp_path, 8, tasks={"outline": {"files": "outline/{id}.png", "kind": "mask", "ignore": [127]}})
    size = ("--set", "data.image_size=[32,48]")
    assert run("data", "show", "orchard.yaml", "--out", "a/sheet.png", "--images", "2", *size).code == 0
    assert (tmp_path / "a" / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_show_needs_no_size(run, tmp_path):
    write_own(tmp_path)
    done = run("data", "show", "orchard.yaml", "--out", "sheet.png", "--images", "2")
    assert done.code == 0
    assert "data.image_size is not set: 32x48 suits images of 32x48 in patches of 16." in done.out


def test_check_counts_the_hold_out_and_lists_few_sizes(run, tmp_path):
    write_own(tmp_path, 12, tasks={"outline": {"files": "outline/{id}.png", "kind": "mask", "ignore": [127]}})
    for index, path in enumerate(sorted((tmp_path / "orchard" / "photos").iterdir())):
        for file in (path, tmp_path / "orchard" / "outline" / f"{path.stem.removeprefix('tree')}.png"):
            with Image.open(file) as image:
                image.resize((48 + index, 32), Image.Resampling.NEAREST).save(file)
    done = run("data", "check", "orchard.yaml")
    assert done.code == 0, done.err
    samples, sizes = done.out.split("Image sizes")
    counts = dict(re.findall(r"^(train|holdout \(of train\)|test) +(\d+)", samples, re.MULTILINE))
    assert counts.keys() == {"train", "holdout (of train)", "test"}
    assert int(counts["train"]) + int(counts["test"]) == 12
    listed = re.findall(r"^\d.* sizes .*\d|^\d+ +\d+ +\d+", sizes.split("Labels")[0], re.MULTILINE)
    assert len(listed) == 9 and listed[-1].startswith("4 further sizes")


def test_prepare_writes_a_folder_and_says_what_to_do_next(run, tmp_path):
    source = write_mat(tmp_path / "official", 2)
    done = run("data", "prepare", "nyud", "--source", source, "--out", "NYUDv2", "--jobs", "1")
    assert done.code == 0
    assert done.out == "2 samples written to NYUDv2\nNext:  dtme-search data check nyud --data-root NYUDv2\n"
    assert run("data", "prepare", "nyud", "--source", source, "--out", "NYUDv2").out.startswith("0 samples")
    (tmp_path / "official" / "splits.mat").unlink()
    failed = run("data", "prepare", "nyud", "--source", source, "--out", "NYUDv2")
    assert failed.code == 2
    assert failed.err.count("\n") == 1
    assert "splits.mat: the file must be next to the source" in failed.err
