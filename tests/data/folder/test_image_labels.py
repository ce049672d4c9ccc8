"""Labels of whole images from a csv or from the ids of a user's own folder."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from own_folder import DESCRIPTION, ids, write_own

from dtme_search.config import DataConfig, load_description
from dtme_search.data import build_data, check_dataset
from dtme_search.data.folder.dataset import FolderDataset
from dtme_search.errors import ConfigError, DataError

NUM = 16
TASKS = {
    "tree": {"kind": "image_class", "file": "trees.csv", "column": "kind", "classes": ["apple", "pear"]},
    "marks": {
        "kind": "image_labels", "file": "trees.csv", "column": "marks", "separator": ";",
        "classes": {"red": ["red", "crimson"], "old": "old", "ill": "ill"},
    },
    "care": {"kind": "image_labels", "file": "trees.csv", "column": ["pruned", "watered"], "missing": "skip"},
    "crop": {"kind": "image_value", "file": "trees.csv", "column": ["kg", "count"], "scale": 2.0},
    "number": {"kind": "image_value", "pattern": r"_(\d)$"},
    "row": {"kind": "image_class", "pattern": r"^(\d)", "classes": [str(n) for n in range(8)]},
}  # fmt: skip


def rows():
    """One line for each image, as somebody's table has it."""
    return [
        {
            "id": f"tree{sample_id}.jpg" if index % 2 else sample_id,
            "kind": ("apple", "pear")[index // 2 % 2],
            "marks": (";", "crimson", "red; old", "ill")[index % 4],
            "pruned": "" if index == 3 else str(index % 2),
            "watered": "" if index == 3 else ("no", "Yes")[index // 2 % 2],
            "kg": f" {index / 2} ",
            "count": str(index),
        }
        for index, sample_id in enumerate(ids(NUM))
    ]


def write(folder, tasks=TASKS, table=None, **changes):
    file = write_own(folder, NUM, {**DESCRIPTION, "tasks": {**tasks}}, **changes)
    table = rows() if table is None else table
    with (folder / "orchard" / "trees.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return file


def open_own(file, **options):
    return FolderDataset(load_description(file), file.parent / "orchard", **options)


def with_cell(index, **cells):
    table = rows()
    table[index] |= cells
    return table


def test_every_kind_is_read_as_it_is_written(tmp_path):
    dataset = open_own(write(tmp_path))
    sample = dataset.read("1_0", tuple(TASKS))
    assert sample.labels["tree"].tolist() == [[1]]
    assert sample.labels["marks"].tolist() == [[[1, 1, 0]]]
    assert sample.labels["care"].tolist() == [[[0, 1]]]
    assert sample.labels["crop"].tolist() == [[[2.0, 2.0 * 2]]]
    assert sample.labels["number"].tolist() == [[[0.0]]]
    assert sample.labels["row"].tolist() == [[1]]
    assert all(valid.tolist() == [[True]] for valid in sample.valid.values())
    assert dataset.read("0_0", ("marks",)).labels["marks"].tolist() == [[[0, 0, 0]]], "labelled with none"
    assert dataset.read("0_1", ("marks",)).labels["marks"].tolist() == [[[1, 0, 0]]]
    assert not dataset.read("1_1", ("care",)).valid["care"].any()
    assert {name: (spec.kind, spec.channels, spec.metric) for name, spec in dataset.tasks.items()} == {
        "tree": ("classes", 2, "accuracy"),
        "marks": ("mask", 3, "mean_ap"),
        "care": ("mask", 2, "mean_ap"),
        "crop": ("values", 2, "l1"),
        "number": ("values", 1, "l1"),
        "row": ("classes", 8, "accuracy"),
    }
    assert dataset.tasks["crop"].class_names == ("kg", "count")


def test_a_folder_of_each_class_needs_no_table(tmp_path):
    file = write_own(tmp_path, NUM, {**DESCRIPTION, "tasks": {}, "images": "photos/{id}.jpg", "groups": None})
    file.write_text(
        "root: orchard\nimages: photos/{id}.jpg\ntasks:\n"
        "  tree: {kind: image_class, pattern: '^(.+?)/', classes: [apple, pear]}\n"
    )
    photos = tmp_path / "orchard" / "photos"
    for index, photo in enumerate(sorted(photos.iterdir())):
        (photos / ("apple", "pear")[index % 2]).mkdir(exist_ok=True)
        photo.rename(photos / ("apple", "pear")[index % 2] / photo.name)
    dataset = open_own(file)
    assert dataset.read("pear/tree0_1", ("tree",)).labels["tree"].tolist() == [[1]]
    presence = dataset.class_presence(dataset.ids("train"))
    assert presence.sum(1).tolist() == [1] * len(presence)


def test_batches_carry_them_untouched_by_augmentation_and_storage(tmp_path):
    dataset = open_own(write(tmp_path))
    found = {}
    for storage in ("device", "loader"):
        config = DataConfig(name="folder", image_size=(16, 32), storage=storage, loader_workers=0)
        data = build_data(config, tuple(TASKS), torch.device("cpu"), dataset=dataset)
        batches = data.train_batches(4, seed=0)
        found[storage] = [next(batches) for _ in range(6)]
        for batch in found[storage]:
            for row, index in enumerate(batch.indices.tolist()):
                sample = dataset.read(data.splits.train[index], tuple(TASKS))
                for task in TASKS:
                    assert batch.valid[task].shape == (4, 1, 1, 1)
                    assert bool(batch.valid[task][row]) == sample.valid[task].item()
                    label = sample.labels[task].ravel()
                    assert batch.targets[task][row].flatten().tolist() == label.tolist()
    for one, other in zip(found["device"], found["loader"], strict=True):
        assert all(torch.equal(one.targets[task], other.targets[task]) for task in TASKS)


def test_the_identity_is_that_of_training_labels_only(tmp_path):
    first = open_own(write(tmp_path / "a"))
    train, test = first.ids("train")[0], first.ids("test")[0]

    def changed(name, sample_id):
        return open_own(write(tmp_path / name, table=with_cell(ids(NUM).index(sample_id), count="77")))

    assert changed("b", test).fingerprint == first.fingerprint
    assert changed("b", test).test_fingerprint != first.test_fingerprint
    assert changed("c", train).fingerprint != first.fingerprint


def test_dense_data_sets_keep_their_identity_beside_nothing_new(tmp_path):
    file = write_own(tmp_path)
    assert "image" not in str(load_description(file).model_dump()["tasks"]["plants"])


def test_empty_cells_and_absent_rows_are_no_labels_where_that_is_allowed(tmp_path):
    table = with_cell(2, kind="")[:-1]
    with pytest.raises(DataError, match=r"tree \(trees\.csv\): 2 of 16 missing \(1_0, 7_1\); marks"):
        open_own(write(tmp_path, table=table))
    dataset = open_own(write(tmp_path / "skip", table=table, missing="skip"))
    labelled = dataset.labelled(ids(NUM))
    assert np.flatnonzero(~labelled["tree"]).tolist() == [2, 15]
    assert np.flatnonzero(~labelled["marks"]).tolist() == [15]
    report = check_dataset(dataset)
    counts = {row["task"]: 0 for row in report.tables()["partly labelled"]}
    for row in report.tables()["partly labelled"]:
        counts[row["task"]] += row["images"] - row["labelled"]
    assert counts == {"tree": 2, "marks": 1, "care": 2, "crop": 1}


def test_the_check_counts_images_and_names_rows_of_nobody(tmp_path):
    table = [*rows(), {**rows()[0], "id": "ghost"}]
    report = check_dataset(open_own(write(tmp_path, table=table)))
    assert report.ok
    assert any("tree: 1 rows of" in note and "'ghost' first" in note for note in report.notes())
    kinds = [row for row in report.tables()["classes"] if row["task"] == "tree"]
    assert sum(row["images_train"] + row["images_test"] for row in kinds) == NUM
    assert {row["pixels"] for row in kinds} == {None}
    values = {row["task"]: row for row in report.tables()["values"]}
    assert values["crop.count"]["maximum"] == 2.0 * 15


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            {"kind": "aple"},
            r"trees\.csv: row 4, kind: tree must be one of its 2 classes, got 'aple'.*'apple'",
        ),
        ({"marks": "red;sad"}, r"row 4, marks: marks must be one of its 3 classes, got 'sad'"),
        ({"pruned": "2"}, r"row 4, pruned: care must be 0 or 1, got '2'"),
        ({"watered": ""}, r"row 4, watered: care must be 0 or 1, got ''.*all columns of the task empty"),
        ({"kg": "3,5"}, r"row 4, kg: crop must be a finite number, got '3,5'"),
        ({"count": "nan"}, r"row 4, count: crop must be a finite number, got 'nan'"),
    ],
)
def test_a_cell_that_does_not_fit_is_told_with_its_row(tmp_path, cells, message):
    dataset = open_own(write(tmp_path, table=with_cell(2, **cells)))
    with pytest.raises(DataError, match=message) as refused:
        dataset.read("1_0", tuple(TASKS))
    assert "\n" not in str(refused.value)
    assert len(check_dataset(dataset).problems) == 1


def test_a_number_beyond_its_range_is_told(tmp_path):
    tasks = {"crop": {**TASKS["crop"], "range": [0, 20]}}
    with pytest.raises(DataError, match=r"row 13, count: crop must lie in 0 to 20, got 22"):
        open_own(write(tmp_path, tasks)).read("5_1", ("crop",))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([*rows(), rows()[2]], r"trees\.csv: an image must have one row, got rows 4 and 18 for '1_0'"),
        (
            [{("sort" if key == "kind" else key): cell for key, cell in row.items()} for row in rows()],
            r"the header must name the column 'kind' once, got \['id', 'sort'.*Correct column or key",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_told(tmp_path, table, message):
    with pytest.raises(DataError, match=message):
        open_own(write(tmp_path, table=table))


def test_a_row_of_another_length_and_a_missing_file_are_told(tmp_path):
    file = write(tmp_path)
    table = tmp_path / "orchard" / "trees.csv"
    table.write_text(table.read_text().replace("apple", "apple, sweet", 1))
    with pytest.raises(DataError, match=r"row 2 must have 7 cells, as the header, got 8.*in quotes"):
        open_own(file)
    table.unlink()
    with pytest.raises(DataError, match=r"trees\.csv: the file cannot be read"):
        open_own(file)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"kind": "image_clas"}, r"tasks\.tree\.kind must be one of image_class, image_labels, image_value"),
        ({"classes": ["apple"]}, r"tasks\.tree\.classes must name 2 to 255 classes, got 1"),
        ({"classes": ["a", "b", "a"]}, "classes must have different names and cells, got 'a' twice"),
        ({"column": ["kind", "marks"]}, "column must name one column for kind image_class"),
        ({"column": []}, "column must name the column of the labels, got none"),
        ({"pattern": "(a)"}, r"tasks\.tree must have either file \(a csv\) or pattern"),
        ({"file": None, "pattern": "(a)"}, "column must be empty with a pattern"),
        ({"file": None, "pattern": "a", "column": []}, "pattern must have one group in brackets, got 0"),
        ({"separator": ";"}, "separator must be empty except for kind image_labels"),
        ({"kind": "image_labels"}, "separator must be given for kind image_labels with one column"),
        ({"kind": "image_value"}, "classes must be empty for kind image_value"),
        ({"loss": "l1"}, "loss must be cross_entropy for kind image_class, got 'l1'"),
        ({"metric": "mean_ap"}, "metric must be accuracy or macro_f1 or miou for kind image_class"),
        ({"files": "masks/{id}.png"}, r"tasks\.tree\.files is unknown.*'file'"),
    ],
)
def test_a_description_that_makes_no_sense_is_told(tmp_path, task, message):
    file = write(tmp_path, {"tree": {**TASKS["tree"], **task}})
    with pytest.raises(ConfigError, match=message) as refused:
        load_description(file)
    assert "\n" not in str(refused.value)
