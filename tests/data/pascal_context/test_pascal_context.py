"""PASCAL-Context: what becomes of the MATLAB files of the release, and what can be wrong with them."""

from __future__ import annotations

import json
import os
import re
import shutil

import numpy as np
import pytest
from nyud_folder import save_png, truncate
from pascal_folder import (
    CONTEXT_CLASSES,
    NYU_CLASSES,
    SIZE,
    TEST,
    TRAIN,
    WITHOUT_PERSON,
    person,
    rectangle,
    regions_of,
    save_palette,
    save_parts,
    save_regions,
    write_release,
)
from PIL import Image
from scipy import io

from dtme_search.data.pascal_context.dataset import CLASS_NAMES, PascalContextDataset
from dtme_search.data.pascal_context.labels import edges_of, read_label_map, read_parts
from dtme_search.data.prepare import prepare
from dtme_search.errors import DataError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("pascal") / "release")


@pytest.fixture
def release(written, tmp_path):
    return shutil.copytree(written, tmp_path / "release")


def prepared(release, out=None, jobs=1, seen=None):
    out = out or release.with_name("prepared")
    heard = seen if seen is not None else []
    report = prepare(
        "pascal_context", release, out, jobs=jobs, on_progress=lambda done, total: heard.append((done, total))
    )
    return out, report.num_samples


def expect(pattern):
    return pytest.raises(DataError, match=rf"^\S*{pattern}")


# ---- what is in the files


def test_parts_are_joined_as_in_the_literature_and_later_persons_lie_over_earlier_ones(tmp_path):
    objects = [
        person(("head", rectangle(slice(0, 2), slice(0, 2))), name="horse", index=13),
        person(
            ("hair", rectangle(slice(0, 2), slice(0, 4))),
            ("neck", rectangle(slice(2, 3), slice(0, 4))),
            ("luarm", rectangle(slice(3, 4), slice(0, 4))),
            ("rhand", rectangle(slice(4, 5), slice(0, 4))),
            ("ruleg", rectangle(slice(5, 6), slice(0, 4))),
            ("lfoot", rectangle(slice(6, 7), slice(0, 4))),
        ),
        person(("torso", rectangle(slice(0, 7), slice(3, 5)))),
        person(),
    ]
    save_parts(tmp_path / "a.mat", "a", objects)
    parts = read_parts(tmp_path / "a.mat")
    assert parts.dtype == np.uint8 and parts.shape == SIZE
    assert parts[:7, 0].tolist() == [1, 1, 2, 3, 4, 5, 6]
    assert (parts[:7, 3:5] == 2).all()
    assert parts[7:].sum() == 0 and parts[:, 5:].sum() == 0


@pytest.mark.parametrize(
    "objects",
    [[], [person()], [person(("head", rectangle(slice(0, 2), slice(0, 2))), name="cat", index=8)]],
    ids=["nothing", "no parts", "a cat"],
)
def test_without_parts_of_persons_nothing_is_known(tmp_path, objects):
    save_parts(tmp_path / "a.mat", "a", objects)
    assert read_parts(tmp_path / "a.mat") is None


def test_edges_lie_where_the_laplacian_of_the_ids_does_not_vanish():
    step = np.repeat([[3, 3, 3, 9, 9, 9]], 8, axis=0).astype(np.uint16)
    edges = edges_of(step)
    # Both sides of the step, thinned to one of them.
    assert set(np.flatnonzero(edges[4])) in ({2}, {3})
    # 1, 2, 3 from column to column: the Laplacian of the middle one is 0, as in the code of the literature.
    ramp = np.repeat([[1, 1, 1, 2, 3, 3, 3]], 8, axis=0).astype(np.uint16)
    assert not edges_of(ramp)[4, 3]
    assert edges_of(ramp)[4, [2, 4]].all()
    assert not edges_of(np.full((8, 8), 459, dtype=np.uint16)).any()


def test_the_frame_is_no_edge():
    """Mirrored without repeating the border pixels: a slope towards the frame doubles there."""
    regions = np.zeros((9, 9), dtype=np.uint16)
    regions[:, 0] = 5
    mirrored = edges_of(regions)
    assert mirrored[4, :2].sum() == 1 and not mirrored[:, 2:].any()


# ---- preparation and reading


def test_the_release_is_prepared_once_and_read_exactly(release):
    seen = []
    out, count = prepared(release, seen=seen)
    assert count == len(TRAIN + TEST)
    assert seen[0] == (0, count) and seen[-1] == (count, count)
    dataset = PascalContextDataset(out)
    assert (dataset.ids("train"), dataset.ids("test")) == (TRAIN, TEST)
    assert list(dataset.tasks) == ["semseg", "human_parts", "sal", "normals", "edge"]
    assert dataset.tasks["semseg"].class_names == CLASS_NAMES and dataset.tasks["human_parts"].channels == 7
    assert dataset.tasks["edge"].edge_tolerance == 0.0075
    for index, sample_id in enumerate(TRAIN + TEST):
        sample = dataset.read(sample_id, tuple(dataset.tasks))
        folder = "VOC12" if index % 2 else "pascal-context"
        with Image.open(release / "semseg" / folder / f"{sample_id}.png") as image:
            assert image.mode == "P"
            stored = np.array(image)
        np.testing.assert_array_equal(sample.valid["semseg"], stored != 255)
        np.testing.assert_array_equal(sample.labels["semseg"][stored != 255], stored[stored != 255])

        regions = regions_of(index)
        np.testing.assert_array_equal(sample.labels["edge"], edges_of(regions))
        counts = np.isin(regions, [CONTEXT_CLASSES[name] for name in ("wall", "floor", "tvmonitor")])
        np.testing.assert_array_equal(sample.valid["normals"], counts)
        with Image.open(release / "normals_distill" / f"{sample_id}.png") as image:
            vectors = 2 * np.array(image).astype(np.float64) / 255 - 1
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        # Written as 8 bits once more.
        assert np.abs(sample.labels["normals"] - vectors)[counts].max() < 0.006

        with Image.open(release / "sal_distill" / f"{sample_id}.png") as image:
            np.testing.assert_array_equal(sample.labels["sal"], np.array(image) / 255 > 0.5)
        assert sample.valid["human_parts"].all() == (sample_id not in WITHOUT_PERSON)
        assert sample.valid["human_parts"].any() == (sample_id not in WITHOUT_PERSON)


def test_the_better_annotation_of_voc_wins(release):
    save_palette(release / "semseg" / "VOC12" / f"{TRAIN[0]}.png", np.full(SIZE, 20))
    save_palette(release / "semseg" / "pascal-context" / f"{TRAIN[0]}.png", np.full(SIZE, 3))
    sample = PascalContextDataset(prepared(release)[0]).read(TRAIN[0], ["semseg"])
    assert (sample.labels["semseg"] == 20).all()


def test_a_dark_saliency_map_has_nothing_salient(release):
    save_png(release / "sal_distill" / f"{TRAIN[0]}.png", np.eye(*SIZE, dtype=np.uint8))
    sample = PascalContextDataset(prepared(release)[0]).read(TRAIN[0], ["sal"])
    assert not sample.labels["sal"].any()


def test_it_goes_on_where_it_was_stopped(release):
    out, _ = prepared(release)
    before = PascalContextDataset(out).fingerprint
    (out / "edge" / f"{TRAIN[1]}.png").unlink()
    (out / "JPEGImages" / f"{TEST[0]}.jpg").unlink()
    assert prepared(release, out)[1] == 2
    assert prepared(release, out)[1] == 0
    assert PascalContextDataset(out).fingerprint == before
    assert not [name for _, _, names in os.walk(out) for name in names if name.endswith(".partial")]


@pytest.mark.slow
def test_processes_write_the_same(release, tmp_path):
    one, _ = prepared(release, tmp_path / "one")
    two, _ = prepared(release, tmp_path / "two", jobs=2)
    assert PascalContextDataset(one).fingerprint == PascalContextDataset(two).fingerprint


def test_where_no_hard_link_can_be_made_files_are_copied(release, monkeypatch):
    def refuse(source, target):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    out, _ = prepared(release)
    (published, copy) = (folder / "JPEGImages" / f"{TRAIN[0]}.jpg" for folder in (release, out))
    assert copy.read_bytes() == published.read_bytes() and not os.path.samefile(published, copy)
    PascalContextDataset(out)


def test_the_release_stays_as_it_was(release):
    before = {path: path.read_bytes() for path in release.rglob("*") if path.is_file()}
    prepared(release)
    assert {path: path.read_bytes() for path in release.rglob("*") if path.is_file()} == before


def test_without_saliency_and_normals_their_tasks_are_absent(release):
    shutil.rmtree(release / "sal_distill")
    shutil.rmtree(release / "normals_distill")
    shutil.rmtree(release / "db_info")
    assert list(PascalContextDataset(prepared(release)[0]).tasks) == ["semseg", "human_parts", "edge"]


# ---- what can be wrong


def test_a_release_that_is_not_prepared_says_what_to_run(release):
    with expect(
        rf"release: data set pascal_context must be prepared first .*, got the published release\. "
        rf"Run: dtme-search data prepare pascal_context --source {re.escape(str(release))} --out DIR$"
    ):
        PascalContextDataset(release)


def test_an_incomplete_release_is_refused_before_any_work(release, tmp_path):
    shutil.rmtree(release / "human_parts")
    with expect(r"release: the release of pascal_context must have .*, got no human_parts\."):
        prepared(release)
    (tmp_path / "above").mkdir()
    release.rename(tmp_path / "above" / "PASCALContext")
    with expect(r"above: .*Did you mean \S*above/PASCALContext\?"):
        prepared(tmp_path / "above")


def test_normals_need_the_two_tables(release):
    (release / "db_info" / "context_classes.json").unlink()
    with expect(
        r"release: normals count only on classes that NYU has too, so db_info must hold "
        r"nyu_classes\.json and context_classes\.json, got no context_classes\.json\."
    ):
        prepared(release)
    (release / "json").mkdir()
    (release / "json" / "context_classes.json").write_text(json.dumps(CONTEXT_CLASSES))
    prepared(release)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("{", r"the file cannot be read as JSON"),
        ("[1]", r"must be a table from class name to id"),
        (json.dumps(dict.fromkeys(NYU_CLASSES, "one")), r"must be a table from class name to id"),
    ],
)
def test_a_table_of_another_form_is_named(release, content, rule):
    (release / "db_info" / "nyu_classes.json").write_text(content)
    with expect(rf"db_info/nyu_classes\.json: {rule}"):
        prepared(release)


def region_file(release):
    return release / "pascal-context" / "trainval" / f"{TRAIN[0]}.mat"


def part_file(release):
    return release / "human_parts" / f"{TRAIN[0]}.mat"


def test_broken_matlab_files_are_all_counted_and_the_rest_is_written(release):
    truncate(region_file(release))
    part_file(release).with_name(f"{TRAIN[2]}.mat").write_bytes(b"MATLAB 7.3 MAT-file" + bytes(600))
    with expect(
        rf"trainval/{TRAIN[0]}\.mat: the file cannot be read as MATLAB version 5 \(.*\)\. Replace it\. "
        r"1 more images are broken\. Everything else was written; run the same command again to resume\.$"
    ):
        prepared(release)
    # Without its lists the folder is not taken for a whole data set.
    with expect(r"prepared: data set pascal_context must be prepared first"):
        PascalContextDataset(release.with_name("prepared"))
    save_regions(region_file(release), regions_of(0))
    save_parts(part_file(release).with_name(f"{TRAIN[2]}.mat"), TRAIN[2], [])
    assert prepared(release)[1] == 2


@pytest.mark.parametrize(
    ("variables", "rule"),
    [
        ({"Other": np.ones(SIZE)}, r"must hold the variable LabelMap, got none"),
        ({"LabelMap": np.full(SIZE, 460, np.uint16)}, r"LabelMap must hold ids 0 to 459, got 460 to 460"),
        ({"LabelMap": np.full(SIZE, -1.0)}, r"LabelMap must hold ids 0 to 459, got -1\.0 to -1\.0"),
        ({"LabelMap": np.ones((4, 5, 3))}, r"class ids of shape \(H, W\), got float64 \(4, 5, 3\)"),
        ({"LabelMap": "regions"}, r"LabelMap must be class ids"),
        ({"LabelMap": np.zeros((0, 0))}, r"LabelMap must be class ids"),
    ],
)
def test_a_region_file_of_another_content_is_named(tmp_path, variables, rule):
    io.savemat(tmp_path / "a.mat", variables)
    with expect(rf"a\.mat: .*{rule}"):
        read_label_map(tmp_path / "a.mat")


@pytest.mark.parametrize(
    ("anno", "rule"),
    [
        (np.ones(SIZE), r"anno must be a struct of objects"),
        ({"imname": "a"}, r"anno must be a struct of objects"),
        ({"objects": np.ones((2, 2))}, r"anno must be a struct of objects"),
    ],
)
def test_a_part_file_of_another_content_is_named(tmp_path, anno, rule):
    io.savemat(tmp_path / "a.mat", {"anno": anno})
    with expect(rf"a\.mat: {rule}"):
        read_parts(tmp_path / "a.mat")


def test_parts_of_unknown_name_or_of_two_sizes_are_named(tmp_path):
    save_parts(tmp_path / "a.mat", "a", [person(("tail", rectangle(slice(0, 1), slice(0, 1))))])
    with expect(r"a\.mat: part names of persons must be those of PASCAL-Part, got 'tail'\."):
        read_parts(tmp_path / "a.mat")
    other = np.ones((3, 4), dtype=np.uint8)
    objects = [person(("head", rectangle(slice(0, 1), slice(0, 1))), ("neck", other))]
    save_parts(tmp_path / "a.mat", "a", objects)
    with expect(r"a\.mat: anno must be .* mask of the image's size"):
        read_parts(tmp_path / "a.mat")


@pytest.mark.parametrize(("missing", "name"), [("mat", "human_parts"), ("jpg", "JPEGImages")])
def test_a_file_missing_in_the_release_is_named(release, missing, name):
    (release / name / f"{TRAIN[1]}.{missing}").unlink()
    with expect(rf"{name}/{TRAIN[1]}\.{missing}: the file is missing\. Complete the data set\."):
        prepared(release)


def test_ids_out_of_range_are_named(release):
    save_palette(release / "semseg" / "VOC12" / f"{TRAIN[0]}.png", np.full(SIZE, 21))
    dataset = PascalContextDataset(prepared(release)[0])
    with expect(
        r"\.png: segmentation ids must be 0 to 20, or 255 for void, got 21 to 21\. Replace the file\."
    ):
        dataset.read(TRAIN[0], ["semseg"])


def test_a_folder_of_another_release_is_not_mixed_with_this_one(release):
    out, _ = prepared(release)
    (release / "ImageSets" / "Context" / "train.txt").write_text(f"{TRAIN[0]}\n{TRAIN[1]}\n")
    with expect(r"prepared: was prepared from another"):
        prepared(release, out)
