"""Somebody's own folder: read as its YAML says, and every mistake told in one line."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from own_folder import DESCRIPTION, SIZE, ids, picture, write_own
from PIL import Image

from dtme_search.config import (
    DataConfig,
    FolderConfig,
    FolderTask,
    RunConfig,
    load_description,
    run_fingerprint,
)
from dtme_search.data import build_dataset, check_dataset, split_ids
from dtme_search.data.folder.label_files import read_label
from dtme_search.errors import ConfigError, DataError


def open_own(file: Path, **options):
    return build_dataset(DataConfig(name="folder", folder=FolderConfig(description=str(file))), **options)


@pytest.fixture
def file(tmp_path):
    return write_own(tmp_path)


@pytest.fixture
def dataset(file):
    return open_own(file)


def changed(tmp_path, *path_and_value):
    """The data set with one value of its description changed; ``None`` takes the key away."""
    description = copy.deepcopy(DESCRIPTION)
    *path, last, value = path_and_value
    place = description
    for key in path:
        place = place.setdefault(key, {})
    if value is None:
        del place[last]
    else:
        place[last] = value
    return write_own(tmp_path, description=description)


def test_tasks_are_those_of_the_description(dataset):
    tasks = dataset.tasks
    assert list(tasks) == list(DESCRIPTION["tasks"])
    assert {
        name: (spec.kind, spec.channels, spec.loss, spec.metric, spec.unit) for name, spec in tasks.items()
    } == {
        "plants": ("classes", 3, "cross_entropy", "miou", "fraction"),
        "ripeness": ("classes", 2, "cross_entropy", "miou", "fraction"),
        "distance": ("distance", 1, "l1", "l1", "m"),
        "faces": ("normals", 3, "normals_l1", "mean_angle", "deg"),
        "outline": ("mask", 1, "balanced_bce", "edge_f", "fraction"),
        "light": ("values", 2, "l1", "l1", "none"),
    }
    assert tasks["plants"].class_names == ("soil", "leaf", "fruit")
    assert tasks["faces"].derived_from == "distance"
    assert [spec.higher_is_better for spec in tasks.values()] == [True, True, False, False, True, False]


def test_every_encoding_gives_what_was_written(dataset):
    sample = dataset.read("1_1", tuple(dataset.tasks))
    raw = picture(3)
    assert sample.image.shape == (*SIZE, 3)
    np.testing.assert_array_equal(sample.labels["plants"], classes_of(raw))
    assert sample.valid["plants"].all()
    ripe, known = sample.labels["ripeness"], sample.valid["ripeness"]
    np.testing.assert_array_equal(known, raw["ripe"] != 255)
    np.testing.assert_array_equal(ripe[known], (raw["ripe"][known] >= 20).astype(int))
    np.testing.assert_array_equal(sample.valid["distance"], raw["depth"] != 65535)
    counted = sample.valid["distance"]
    np.testing.assert_allclose(sample.labels["distance"][counted], raw["depth"][counted] / 1000, rtol=1e-6)
    # Grey is no direction.
    assert not sample.valid["faces"][0].any() and sample.valid["faces"][1:].all()
    np.testing.assert_allclose(sample.labels["faces"][5, 5], (0, 0, -1), atol=0.01)
    np.testing.assert_array_equal(sample.valid["outline"], raw["outline"] != 127)
    np.testing.assert_array_equal(sample.labels["outline"], raw["outline"] == 255)
    np.testing.assert_array_equal(sample.labels["light"], raw["light"])


def classes_of(raw):
    return np.select([raw["labels"][..., 0] == 255, raw["labels"][..., 1] == 255], [2, 1], 0)


def test_palette_pictures_hold_labels_not_colours(tmp_path):
    labels = (np.indices(SIZE)[0] // 11).astype(np.uint8)
    file = changed(
        tmp_path, "tasks", "plants", {"files": "labels/{id}.png", "kind": "classes", "classes": list("abc")}
    )
    for sample_id in ids(8):
        image = Image.fromarray(labels)
        image.putpalette([7, 7, 7, 200, 0, 0, 0, 9, 0])
        image.save(tmp_path / "orchard" / "labels" / f"{sample_id}.png")
    sample = open_own(file).read("0_0", ("plants",))
    np.testing.assert_array_equal(sample.labels["plants"], labels)


def test_numbers_are_scaled_and_shifted(tmp_path):
    task = {"files": "depth/{id}.png", "kind": "values", "scale": 2.0, "offset": -1.0, "ignore": [65535]}
    dataset = open_own(changed(tmp_path, "tasks", "light", task))
    raw = picture(0)["depth"]
    sample = dataset.read("0_0", ("light",))
    counted = sample.valid["light"]
    np.testing.assert_array_equal(counted, raw != 65535)
    np.testing.assert_allclose(sample.labels["light"][counted][:, 0], 2.0 * raw[counted] - 1.0)


def test_a_share_of_the_groups_is_for_the_test(dataset):
    train, test = set(dataset.groups(dataset.ids("train"))), set(dataset.groups(dataset.ids("test")))
    assert not train & test
    assert len(test) == 1
    assert sorted(dataset.ids("train") + dataset.ids("test")) == ids(8)


def test_lists_and_patterns_of_ids_decide_the_split(tmp_path):
    file = changed(tmp_path, "splits", {"train": "train.txt", "test": "3_*"})
    (tmp_path / "orchard" / "train.txt").write_text("1_0\n0_1\n2_0\n")
    dataset = open_own(file)
    assert dataset.ids("train") == ("1_0", "0_1", "2_0")
    assert dataset.ids("test") == ("3_0", "3_1")


def test_groups_may_come_from_a_file(tmp_path):
    file = changed(tmp_path, "groups", {"file": "groups.txt"})
    (tmp_path / "orchard" / "groups.txt").write_text("".join(f"{i} north field\n" for i in ids(8)[:4]))
    assert open_own(file).groups(["0_0", "1_1", "3_0"]) == ["north field", "north field", "3_0"]


def test_folders_may_be_nested_and_part_the_split(tmp_path):
    file = changed(tmp_path, "splits", {"train": "a/*", "test": "b/*"})
    root = tmp_path / "orchard"
    for folder in list(root.iterdir()):
        for path in list(folder.iterdir()):
            sample_id = path.stem.removeprefix("tree")
            place = folder / ("a" if sample_id[0] < "3" else "b")
            place.mkdir(exist_ok=True)
            path.rename(place / (sample_id + path.suffix))
    text = file.read_text().replace("photos/tree{id}", "photos/{id}").replace("^(", "([ab]/")
    file.write_text(text)
    dataset = open_own(file)
    assert dataset.ids("test") == ("b/3_0", "b/3_1")
    assert dataset.read("b/3_0", ("plants", "light")).image.shape == (*SIZE, 3)


def test_the_hold_out_gets_every_class_where_it_can(tmp_path):
    """Class c occurs in two trees of sixteen; a hold-out by chance alone lacks it with most seeds."""
    num = 32
    task = {"files": "ripe/{id}.png", "kind": "classes", "classes": {"a": 0, "b": 1, "c": 2}}
    file = write_own(tmp_path, num, tasks={"plants": task}, splits={"train": "train.txt", "test": "15_*"})
    (tmp_path / "orchard" / "train.txt").write_text("".join(f"{i}\n" for i in ids(num)[:30]))
    for index, sample_id in enumerate(ids(num)):
        labels = np.full(SIZE, index % 2, np.uint8)
        labels[:4] = 2 if index // 2 in (4, 9) else 0
        Image.fromarray(labels).save(tmp_path / "orchard" / "ripe" / f"{sample_id}.png")
    dataset = open_own(file)
    presence = dataset.class_presence(dataset.ids("train"))
    assert presence.shape == (len(dataset.ids("train")), 3)
    by_id = dict(zip(dataset.ids("train"), presence, strict=True))
    assert sum(row[2] for row in by_id.values()) == 4
    for seed in range(6):
        splits = split_ids(dataset, DataConfig(name="folder", holdout_seed=seed), final=False)
        for side in (splits.train, splits.holdout):
            assert np.any([by_id[i] for i in side], axis=0).all()
        assert not set(dataset.groups(splits.train)) & set(dataset.groups(splits.holdout))
        assert len(splits.holdout) in (4, 6)


def test_a_copy_is_the_same_data_and_a_changed_meaning_is_not(tmp_path, dataset):
    file = write_own(tmp_path / "copy")
    assert open_own(file).fingerprint == dataset.fingerprint
    other = changed(tmp_path / "other", "tasks", "distance", "scale", 0.002)
    assert open_own(other).fingerprint != dataset.fingerprint
    Image.fromarray(picture(9)["labels"]).save(tmp_path / "copy" / "orchard" / "labels" / "0_0.png")
    assert open_own(file).fingerprint != dataset.fingerprint


def test_the_place_of_the_description_is_no_part_of_a_run(file):
    runs = [
        RunConfig(data=DataConfig(name="folder", folder=FolderConfig(description=place)))
        for place in (str(file), "elsewhere.yaml")
    ]
    assert run_fingerprint(runs[0]) == run_fingerprint(runs[1])


def test_it_can_be_sent_to_the_processes_of_a_loader(dataset):
    assert pickle.loads(pickle.dumps(dataset)).read("0_0", ()).image.shape == (*SIZE, 3)


def test_the_root_on_the_command_line_takes_the_place_of_that_in_the_file(file, tmp_path):
    (tmp_path / "orchard").rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"orchard: the folder of the data must exist"):
        open_own(file)
    config = DataConfig(
        name="folder", root=str(tmp_path / "moved"), folder=FolderConfig(description=str(file))
    )
    assert len(build_dataset(config).ids("train")) == 6


@pytest.mark.parametrize(
    ("path_and_value", "message"),
    [
        (("imags", "x/{id}.png"), r"orchard\.yaml: imags is unknown\. Did you mean 'images'\?"),
        (("images", None), r"orchard\.yaml: images is missing"),
        (
            ("images", "photos/*.jpg"),
            r"images must be a path with \{id\} once in it and an ending, got 'photos/\*",
        ),
        (("images", "../{id}.jpg"), r"images must lie below root"),
        (("tasks", {}), r"tasks must name at least one task"),
        (
            ("tasks", "a b", {"files": "x/{id}.png", "kind": "mask"}),
            "a name must be letters, digits and underscores",
        ),
        (
            ("tasks", "plants", "kind", "class"),
            r"tasks\.plants\.kind must be one of classes, distance, .*got 'class'",
        ),
        (
            ("tasks", "plants", "loss", "l1"),
            r"tasks\.plants\.loss must be cross_entropy or .* for kind classes, got 'l1'",
        ),
        (
            ("tasks", "light", "metric", "miou"),
            r"tasks\.light\.metric must be l1 or rmse for kind values, got 'miou'",
        ),
        (("tasks", "light", "metric", "mious"), r"tasks\.light\.metric must be one of .*Did you mean 'miou'"),
        (
            ("tasks", "outline", "encoding", "colours"),
            r"outline\.encoding must be labels or numbers for kind edge",
        ),
        (("tasks", "plants", "classes", ["a", "b"]), r"classes must give each name its colour"),
        (
            ("tasks", "plants", "classes", {"a": "#ff0000", "b": "green"}),
            r"classes\.b must be a colour '#RRGGBB'",
        ),
        (("tasks", "ripeness", "classes", {"a": 1}), r"classes must name 2 to 255 classes, got 1"),
        (
            ("tasks", "ripeness", "classes", {"a": 1, "b": [2, 1]}),
            r"classes\.b must have its own value, got 1, which a has too",
        ),
        (
            ("tasks", "ripeness", "classes", {"a": 1, "b": 2**31}),
            r"classes\.b must be a label, a whole number up to 2147483647, got 2147483648",
        ),
        (
            ("tasks", "ripeness", "classes", {0: "a", 1: "b"}),
            r"classes.*must have text as names, got 0\. Put",
        ),
        (("tasks", "ripeness", "classes", [True, "b"]), r"classes.*must have text as names, got True"),
        (("tasks", "ripeness", "classes", ["a", None]), r"classes.*must have text as names, got None"),
        (("tasks", "outline", "ignore", ["#ff0000"]), r"ignore must hold labels, got '#ff0000'"),
        (("tasks", "outline", "ignore", [0.5]), r"ignore must hold labels, got 0\.5"),
        (("tasks", "distance", "ignore", ["far"]), r"ignore must hold numbers, got 'far'"),
        (("tasks", "t" * 65, {"files": "x/{id}.png", "kind": "mask"}), "underscores, 64 at most"),
        (("tasks", "ripeness", "ignore", [10]), r"ignore must not name the value of a class, got 10"),
        (("tasks", "distance", "range", [5, 5]), r"range must be \[low, high\] with low < high"),
        (("tasks", "distance", "scale", 0), r"tasks\.distance\.scale must be above 0, got 0"),
        (("tasks", "distance", "channels", 2), r"channels must be 1 for kind distance"),
        (("tasks", "distance", "classes", ["a"]), r"classes must be empty for kind distance"),
        (("splits", {"train": "a.txt"}), r"splits\.?:? ?test must be given too"),
        (("splits", {"test_fraction": 1.5}), r"splits\.test_fraction must be below 1, got 1\.5"),
        (("groups", {"pattern": "("}), r"groups.*pattern must be a regular expression"),
        (("groups", {"pattern": "a"}), r"groups.*pattern must have one group in brackets, got 0"),
        (("groups", {}), r"groups must have either file or pattern"),
    ],
)
def test_a_wrong_description_is_told_with_file_key_rule_and_value(tmp_path, path_and_value, message):
    with pytest.raises(ConfigError, match=message) as refused:
        load_description(changed(tmp_path, *path_and_value))
    assert "\n" not in str(refused.value)


def save(name):
    def damage(root, pixels):
        path = root / name
        np.save(path, pixels) if path.suffix == ".npy" else Image.fromarray(pixels).save(path)

    return damage


def halve(name):
    def damage(root, _):
        path = root / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


BLUE = np.full((*SIZE, 3), (0, 0, 255), np.uint8)


@pytest.mark.parametrize(
    ("damage", "pixels", "message"),
    [
        (halve("photos/tree0_0.jpg"), None, r"tree0_0\.jpg: the file cannot be read"),
        (halve("labels/0_0.png"), None, r"labels/0_0\.png: the file cannot be read"),
        (halve("light/0_0.npy"), None, r"light/0_0\.npy: the file cannot be read \(not a whole npy array\)"),
        (
            save("labels/0_0.png"),
            BLUE,
            r"labels/0_0\.png: plants must hold the colours of its classes .* got #0000ff",
        ),
        (
            save("ripe/0_0.png"),
            np.full(SIZE, 30, np.uint8),
            r"0_0\.png: ripeness must hold the labels .*, got 30 at 1536",
        ),
        (
            save("ripe/0_0.png"),
            BLUE,
            r"0_0\.png: ripeness must be integer ids of shape \(H, W\), got uint8 \(32, 48, 3\)",
        ),
        (
            save("depth/0_0.png"),
            np.full(SIZE, 50000, np.uint16),
            r"distance must lie in 0 to 20, got 50 to 50",
        ),
        (save("depth/0_0.png"), BLUE, r"distance must hold 1 number per pixel, got uint8 \(32, 48, 3\)"),
        (save("outline/0_0.png"), np.zeros((9, 9), np.uint8), r"size of outline must be .* 32x48, got 9x9"),
        (
            save("light/0_0.npy"),
            np.ones((*SIZE, 3)),
            r"light must hold 2 numbers per pixel, got float64 \(32, 48, 3\)",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_told_in_one_line(file, tmp_path, damage, pixels, message):
    damage(tmp_path / "orchard", pixels)
    dataset = open_own(file)
    with pytest.raises(DataError, match=message) as refused:
        dataset.read("0_0", tuple(dataset.tasks))
    assert "\n" not in str(refused.value)
    report = check_dataset(open_own(file, require_complete=False))
    assert [problem.sample_id for problem in report.problems] == ["0_0"]


def test_missing_files_are_counted_at_once_and_listed_by_the_check(file, tmp_path):
    (tmp_path / "orchard" / "depth" / "1_0.png").unlink()
    (tmp_path / "orchard" / "light" / "1_0.npy").unlink()
    with pytest.raises(DataError, match=r"got distance \(depth/\{id\}\.png\): 1 of 8 missing \(1_0\); light"):
        open_own(file)
    report = check_dataset(open_own(file, require_complete=False))
    assert len(report.problems) == 2
    assert all("the file is missing" in problem.message for problem in report.problems)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": "pictures/{id}.jpg"},
            r"pictures/\{id\}\.jpg: it must match at least one image, got none",
        ),
        (
            {"splits": {"train": "9_*", "test": "1_*"}},
            r"some of 8 ids must match '9_\*', got none, '0_0' first",
        ),
        ({"groups": {"pattern": "(_)"}}, r"there must be images of at least two groups to split, got 1"),
        ({"splits": {"train": "a.txt", "test": "1_*"}}, r"a\.txt: the file cannot be read"),
    ],
)
def test_ids_that_cannot_be_found_are_told(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        open_own(write_own(tmp_path, **changes))


def test_no_description_says_where_to_read_about_it():
    with pytest.raises(ConfigError, match=r"data\.folder\.description must name the YAML.*own-data\.md"):
        build_dataset(DataConfig(name="folder"))


@pytest.mark.parametrize("kind", ["classes", "mask", "values"])
def test_minus_one_can_mean_nobody_judged(tmp_path, kind):
    values = picture(0)["ripe"].astype(np.int16)
    values[values == 255] = -1
    np.save(tmp_path / "a.npy", values)
    task = {
        "classes": {"classes": {"green": 10, "red": [20, 21]}},
        "mask": {"positive": [20, 21]},
        "values": {},
    }[kind]
    described = FolderTask(files="{id}.npy", kind=kind, ignore=[-1], **task)
    label, valid = read_label(tmp_path / "a.npy", "t", described)
    np.testing.assert_array_equal(valid, values != -1)
    assert kind != "classes" or np.array_equal(label[valid], (values[valid] >= 20).astype(int))


def test_a_number_of_the_description_is_found_in_a_file_of_single_precision(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0.1, 0.2]], np.float32))
    task = FolderTask(files="{id}.npy", kind="values", ignore=[0.1])
    assert read_label(tmp_path / "a.npy", "t", task)[1].tolist() == [[False, True]]


def test_a_mask_with_soft_borders_is_no_mask(tmp_path):
    for name, numbers in (("soft", [0, 3, 128, 255]), ("objects", [0, 1, 2, 3]), ("plain", [0, 255, 255, 0])):
        Image.fromarray(np.array([numbers], np.uint8)).save(tmp_path / f"{name}.png")
    task = FolderTask(files="{id}.png", kind="mask")
    with pytest.raises(DataError, match=r"soft\.png: t must hold 0 and 255 only, .* got 3, 128 too"):
        read_label(tmp_path / "soft.png", "t", task)
    halved = FolderTask(files="{id}.png", kind="mask", encoding="numbers", scale=0.0039)
    assert read_label(tmp_path / "soft.png", "t", halved)[0].tolist() == [[0, 0, 0, 1]]
    assert read_label(tmp_path / "objects.png", "t", task)[0].tolist() == [[0, 1, 1, 1]]
    assert read_label(tmp_path / "plain.png", "t", task)[0].tolist() == [[0, 1, 1, 0]]


@pytest.mark.parametrize("words", ["no, yes, maybe", "off, on, Maybe", "N, Y, NO"])
def test_words_that_older_yaml_takes_for_truth_are_names(tmp_path, words):
    for classes in (
        f"[{words}]",
        "{" + ", ".join(f"{word}: {i}" for i, word in enumerate(words.split(", "))) + "}",
    ):
        path = tmp_path / "d.yaml"
        path.write_text(
            "images: '{id}.jpg'\ntasks:\n"
            f"  on: {{files: 'x/{{id}}.png', kind: classes, classes: {classes}}}\n"
        )
        description = load_description(path)
        assert list(description.tasks["on"].class_values) == words.split(", ")


@pytest.mark.parametrize(
    ("given", "loss", "metric"),
    [
        ({"kind": "mask"}, "batch_balanced_bce", "iou"),
        ({"kind": "edge"}, "balanced_bce", "edge_f"),
        ({"kind": "mask", "metric": "edge_f"}, "balanced_bce", "edge_f"),
        ({"kind": "mask", "metric": "max_f"}, "batch_balanced_bce", "max_f"),
    ],
    ids=str,
)
def test_a_mask_is_scored_as_a_region_and_an_edge_as_lines(tmp_path, given, loss, metric):
    outline = {"files": "outline/{id}.png", "ignore": [127], **given}
    spec = open_own(write_own(tmp_path, 8, tasks={"outline": outline})).tasks["outline"]
    assert (spec.kind, spec.loss, spec.metric, spec.unit) == ("mask", loss, metric, "fraction")
