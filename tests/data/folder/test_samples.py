"""Which files are samples, what is passed over, and what two parts of a split may share."""

from __future__ import annotations

import shutil

import pytest
from own_folder import ids, write_own

from dtme_search.config import DataConfig, FolderConfig
from dtme_search.data import build_dataset, check_dataset, split_ids
from dtme_search.errors import DataError


def open_own(file):
    return build_dataset(DataConfig(name="folder", folder=FolderConfig(description=str(file))))


def notes(file):
    return "\n".join(check_dataset(open_own(file)).notes())


def listed(dataset):
    return sorted([*dataset.ids("train"), *dataset.ids("test")])


def test_endings_in_capitals_are_used(tmp_path):
    file = write_own(tmp_path)
    for folder, name, ending in (
        ("photos", "tree0_0", ".JPG"),
        ("labels", "1_0", ".PNG"),
        ("light", "2_1", ".Npy"),
    ):
        path = next((tmp_path / "orchard" / folder).glob(f"{name}.*"))
        path.rename(path.with_suffix(ending))
    dataset = open_own(file)
    assert listed(dataset) == ids(8)
    for sample_id in listed(dataset):
        dataset.read(sample_id, tuple(dataset.tasks))
    assert "ending" not in notes(file)


def test_pictures_of_other_endings_and_twins_are_told(tmp_path):
    file = write_own(tmp_path)
    photos = tmp_path / "orchard" / "photos"
    for name in ("tree9_0.jpeg", "tree9_1.jpeg", "other.png", ".tree0_0.jpg", "notes.txt"):
        shutil.copy(photos / "tree0_0.jpg", photos / name)
    shutil.copy(photos / "tree0_0.jpg", photos / "tree0_0.JPG")
    assert listed(open_own(file)) == ids(8)
    said = notes(file)
    assert "2 pictures with the ending .jpeg do not fit photos/tree{id}.jpg and were left out" in said
    assert "1 pictures with the ending .png" in said and "notes" not in said and ".tree" not in said
    assert "1 ids have two files that differ in the case of the ending" in said


def test_folders_that_are_links_are_walked_once(tmp_path):
    file = write_own(
        tmp_path,
        images="photos/{id}.jpg",
        groups=None,
        tasks={
            "outline": {"files": "outline/0_0.png".replace("0_0", "{id}"), "kind": "mask", "ignore": [127]}
        },
    )
    root = tmp_path / "orchard"
    (tmp_path / "disk").mkdir()
    for folder, old, new in (("photos", "tree0_0.jpg", "0_0.jpg"), ("photos", "tree0_1.jpg", "0_1.jpg")):
        shutil.copy(root / folder / old, tmp_path / "disk" / new)
    shutil.rmtree(root / "photos")
    (root / "photos").mkdir()
    (root / "photos" / "site").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "again").symlink_to(tmp_path / "disk")
    (root / "outline" / "site").symlink_to(root / "outline")
    assert listed(open_own(file)) == ["site/0_0", "site/0_1"]


def test_images_in_neither_list_are_told(tmp_path):
    file = write_own(tmp_path, groups=None, splits={"train": "0_*", "test": "1_*"})
    assert "4 of 8 images are neither for training nor for the test, '2_0' first" in notes(file)


@pytest.mark.parametrize(
    "text",
    [
        "{id}.jpg tree{group}", "{id}, tree{group}", "tree{id} tree{group}", "/data/{id} tree{group}",
        "{id}\t\n",
    ],
    ids=["ending", "comma", "prefix", "path", "one column"],
)  # fmt: skip
def test_groups_that_fit_no_image_are_refused(tmp_path, text):
    file = write_own(tmp_path, groups={"file": "groups.txt"})
    lines = [text.format(id=each, group=each[0]) for each in ids(8)]
    (tmp_path / "orchard" / "groups.txt").write_text("\n".join(lines))
    with pytest.raises(
        DataError, match=r"groups.*(must give a group to the images, got none|every line must)"
    ):
        open_own(file)


def test_groups_that_fit_some_images_are_told(tmp_path):
    file = write_own(tmp_path, groups={"file": "groups.txt"})
    lines = [f"{each} {each[0]}" for each in ids(8)[:6]] + ["strange x"]
    (tmp_path / "orchard" / "groups.txt").write_text("\n".join(lines))
    said = notes(file)
    assert "2 of 8 images have no group" in said and "'3_0' first" in said
    assert "1 ids of" in said and "'strange' first" in said
    (tmp_path / "orchard" / "groups.txt").write_text("\n".join([*lines, "0_0 7"]))
    with pytest.raises(DataError, match="an id must have one value, got '0' and '7' for '0_0'"):
        open_own(file)


def test_a_pattern_that_fits_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"groups: pattern '\^scene\(\\d\+\)' must give a group"):
        open_own(write_own(tmp_path, groups={"pattern": r"^scene(\d+)"}))


def test_a_group_on_both_sides_is_refused(tmp_path):
    file = write_own(tmp_path, splits={"train": "*_0", "test": "*_1"})
    with pytest.raises(DataError, match="training and test must share no group, got 4 in both, '0' first"):
        open_own(file)


def test_an_id_on_both_sides_is_refused(tmp_path):
    dataset = open_own(write_own(tmp_path, splits={"train": "*", "test": "1_*"}))
    with pytest.raises(DataError, match="training and test ids must differ, got 2 in both"):
        split_ids(dataset, DataConfig(name="folder"), final=False)


def test_a_photograph_under_two_names_is_told(tmp_path):
    file = write_own(tmp_path, groups=None, splits={"train": "[01]_*", "test": "[23]_*"})
    photos = tmp_path / "orchard" / "photos"
    shutil.copy(photos / "tree0_0.jpg", photos / "tree3_1.jpg")
    shutil.copy(photos / "tree1_0.jpg", photos / "tree1_1.jpg")
    said = notes(file)
    assert "training and test share 1 photographs, 0_0 and 3_1 first" in said
    assert "training images repeat 1 photographs, 1_0 and 1_1 first" in said
