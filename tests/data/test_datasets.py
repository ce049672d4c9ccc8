"""What every data set promises, on small copies in the published layouts."""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pascal_folder
import pytest
import taskonomy_folder
import torch
from nyud_folder import truncate, write_nyud
from PIL import Image

from dtme_search.config import DataConfig
from dtme_search.data import Dataset, build_data, build_dataset, check_dataset, split_ids
from dtme_search.data.prepare import prepare
from dtme_search.errors import DataError
from dtme_search.tasks import TaskSpec


def write_pascal(root: Path) -> Path:
    release = pascal_folder.write_release(root.with_name("release"))
    prepare("pascal_context", release, root, jobs=1, on_progress=lambda done, total: None)
    shutil.rmtree(release)
    return root


def nyud_file(root: Path, part: str, sample_id: str) -> Path:
    folder = {"image": "images", "semseg": "segmentation"}.get(part, part)
    return root / folder / f"{sample_id}.png"


def pascal_file(root: Path, part: str, sample_id: str) -> Path:
    return root / "JPEGImages" / f"{sample_id}.jpg" if part == "image" else root / part / f"{sample_id}.png"


def taskonomy_file(root: Path, part: str, sample_id: str) -> Path:
    domain = {"image": "rgb", "normals": "normal"}.get(part, part)
    return taskonomy_folder.path_of(root, domain, *sample_id.split("/"))


@dataclass(frozen=True)
class Family:
    """A data set on disk: how to write a small one, and which file holds what."""

    name: str
    write: Callable[[Path], Path]
    file: Callable[[Path, str, str], Path]
    settings: dict[str, object]

    def config(self, root: Path, **fields) -> DataConfig:
        return DataConfig(name=self.name, root=str(root), **{**self.settings, **fields})

    def open(self, root: Path, **options) -> Dataset:
        return build_dataset(self.config(root), **options)


FOLDER = {"folder": {"description": str(Path(__file__).with_name("nyud_as_folder.yaml"))}}
TASKONOMY = {"taskonomy": {"split": "small.csv"}}


def write_taskonomy(root: Path) -> Path:
    taskonomy_folder.write_taskonomy(root)
    taskonomy_folder.write_split(
        root / "small.csv", taskonomy_folder.TRAIN[:2], taskonomy_folder.TRAIN[2:], taskonomy_folder.TEST
    )
    return root


FAMILIES = (
    Family("nyud", write_nyud, nyud_file, {}),
    Family("folder", write_nyud, nyud_file, FOLDER),
    Family("pascal_context", write_pascal, pascal_file, {}),
    Family("taskonomy", write_taskonomy, taskonomy_file, TASKONOMY),
)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def family(request) -> Family:
    return request.param


@pytest.fixture(scope="module")
def written(family, tmp_path_factory) -> Path:
    """One copy for all tests of a family, for reading only."""
    return family.write(tmp_path_factory.mktemp("data") / family.name)


@pytest.fixture
def copied(written, tmp_path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def all_ids(dataset: Dataset) -> tuple[str, ...]:
    return dataset.ids("train") + dataset.ids("test")


def assert_fits(spec: TaskSpec, label: np.ndarray, valid: np.ndarray, size: tuple[int, int]) -> None:
    assert valid.shape == size and valid.dtype == bool
    channels = {"normals": (3,), "values": (spec.channels,)}.get(spec.kind, ())
    assert label.shape in {(*size, *channels), size if channels == (1,) else (*size, *channels)}
    assert label.dtype == (np.uint8 if spec.kind in ("classes", "mask") else np.float32)
    counted = label[valid]
    assert np.isfinite(counted).all()
    if spec.kind in ("classes", "mask"):
        assert counted.max(initial=0) < (spec.channels if spec.kind == "classes" else 2)
    if spec.kind == "distance":
        assert (counted > 0).all()
    if spec.kind == "normals":
        np.testing.assert_allclose(np.linalg.norm(counted, axis=-1), 1, atol=1e-4)


def test_ids_are_listed_once_and_groups_name_each(family, written):
    dataset = family.open(written)
    ids = all_ids(dataset)
    assert len(set(ids)) == len(ids) > 0
    assert dataset.ids("train") == family.open(written).ids("train")
    groups = dataset.groups(dataset.ids("train"))
    assert groups is None or len(groups) == len(dataset.ids("train"))


def test_every_sample_has_the_form_that_training_expects(family, written):
    dataset = family.open(written)
    assert [spec.name for spec in dataset.tasks.values()] == list(dataset.tasks)
    for sample_id in all_ids(dataset):
        sample = dataset.read(sample_id, tuple(dataset.tasks))
        assert sample.image.dtype == np.uint8 and sample.image.shape[2] == 3
        assert list(sample.labels) == list(sample.valid) == list(dataset.tasks)
        for task, spec in dataset.tasks.items():
            assert_fits(spec, sample.labels[task], sample.valid[task], sample.image.shape[:2])


def test_a_task_reads_the_same_alone_and_with_others(family, written):
    dataset = family.open(written)
    sample_id = dataset.ids("train")[0]
    together = dataset.read(sample_id, tuple(dataset.tasks))
    for task in dataset.tasks:
        alone = dataset.read(sample_id, (task,))
        assert list(alone.labels) == [task]
        np.testing.assert_array_equal(alone.labels[task], together.labels[task])
        np.testing.assert_array_equal(alone.valid[task], together.valid[task])
    np.testing.assert_array_equal(dataset.read(sample_id, ()).image, together.image)


def test_presence_says_which_classes_are_in_the_labels(family, written):
    dataset = family.open(written)
    ids = dataset.ids("train")
    presence = dataset.class_presence(ids)
    specs = [spec for spec in dataset.tasks.values() if spec.kind == "classes"]
    if presence is None:
        assert not specs
        return
    for row, sample_id in zip(presence, ids, strict=True):
        sample = dataset.read(sample_id, [spec.name for spec in specs])
        found = [
            np.bincount(sample.labels[spec.name][sample.valid[spec.name]], minlength=spec.channels) > 0
            for spec in specs
        ]
        np.testing.assert_array_equal(row, np.concatenate(found))


def test_a_copy_elsewhere_is_the_same_data_set_until_it_changes(family, written, copied):
    before = family.open(written).fingerprint
    dataset = family.open(copied)
    assert dataset.fingerprint == before
    path = family.file(copied, "image", dataset.ids("train")[0])
    Image.fromarray(255 - pixels(path)).save(path)
    assert family.open(copied).fingerprint != before


def test_a_worker_process_can_be_handed_the_data_set(family, written):
    dataset = family.open(written)
    received = pickle.loads(pickle.dumps(dataset))
    sample_id = dataset.ids("train")[-1]
    np.testing.assert_array_equal(received.read(sample_id, ()).image, dataset.read(sample_id, ()).image)


def test_each_broken_file_is_named_in_one_line(family, copied):
    dataset = family.open(copied)
    sample_id = dataset.ids("train")[0]
    for part in ("image", *dataset.tasks):
        path = family.file(copied, part, sample_id)
        content = path.read_bytes()
        truncate(path)
        asked = () if part == "image" else (part,)
        with pytest.raises(
            DataError, match=rf"^{re.escape(str(path))}: the file cannot be read .*\.$"
        ) as seen:
            dataset.read(sample_id, asked)
        assert "\n" not in str(seen.value)
        path.write_bytes(content)
        dataset.read(sample_id, asked)


def test_each_missing_file_is_named_at_once_and_by_the_check(family, copied):
    sample_id = family.open(copied).ids("train")[1]
    for part in ("image", *list(family.open(copied).tasks)[:3]):
        path = family.file(copied, part, sample_id)
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(DataError, match=rf"^{re.escape(str(copied))}: every .*missing") as seen:
            family.open(copied)
        assert "\n" not in str(seen.value)
        report = check_dataset(family.open(copied, require_complete=False))
        assert {problem.sample_id for problem in report.problems} == {sample_id}
        missing = re.compile(rf"{re.escape(str(path.with_suffix('')))}\.\w+: the file is missing")
        assert any(missing.match(problem.message) for problem in report.problems)
        path.write_bytes(content)
    assert check_dataset(family.open(copied)).ok


def test_each_label_of_another_size_is_named_with_both_sizes(family, copied):
    dataset = family.open(copied)
    sample_id = dataset.ids("train")[0]
    height, width = dataset.read(sample_id, ()).image.shape[:2]
    for task in dataset.tasks:
        path = family.file(copied, task, sample_id)
        content = path.read_bytes()
        Image.fromarray(pixels(path)[: height - 2, : width - 4]).save(path)
        with pytest.raises(DataError, match=rf"{height}x{width}, got {height - 2}x{width - 4}\.") as seen:
            dataset.read(sample_id, (task,))
        assert str(path) in str(seen.value) or task != "depth_zbuffer"
        path.write_bytes(content)


def test_labels_that_are_no_labels_are_named(family, copied):
    """Every file in turn is a picture of another kind."""
    dataset = family.open(copied)
    sample_id = dataset.ids("train")[0]
    size = dataset.read(sample_id, ()).image.shape[:2]
    for task in dataset.tasks:
        path = family.file(copied, task, sample_id)
        content = path.read_bytes()
        grey = pixels(path).ndim == 2
        Image.fromarray(np.full((*size, 3) if grey else size, 77, np.uint8)).save(path)
        with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: .* must (be|hold) .*, got .*\.$"):
            dataset.read(sample_id, (task,))
        path.write_bytes(content)


def test_an_unknown_task_is_a_programming_error(family, written):
    dataset = family.open(written)
    known = next(iter(dataset.tasks))
    with pytest.raises(ValueError, match=rf"got '{known}s'.*'{known}'"):
        dataset.read(dataset.ids("train")[0], (known + "s",))


def test_a_folder_that_is_not_there_is_named(family, tmp_path):
    with pytest.raises(
        DataError, match=r"nowhere: the folder of .* must exist\. (Pass --data-root|Set root)"
    ):
        family.open(tmp_path / "nowhere")


@pytest.mark.parametrize("storage", ["device", "loader"])
def test_a_search_reads_nothing_of_the_test_split(family, copied, storage, tmp_path, monkeypatch):
    monkeypatch.setenv("DTME_CACHE", str(tmp_path / "cache"))
    dataset = family.open(copied)
    for sample_id in dataset.ids("test"):
        for part in ("image", *dataset.tasks):
            family.file(copied, part, sample_id).write_bytes(b"not for a search")
    config = family.config(
        copied, image_size=(24, 24), storage=storage, loader_workers=0, holdout_fraction=0.34
    )
    data = build_data(config, tuple(dataset.tasks), torch.device("cpu"))
    data.target_means()
    next(data.train_batches(2, seed=0))
    assert sum(len(batch.images) for batch in data.eval_batches("holdout", 4)) == len(data.splits.holdout)
    with pytest.raises(DataError, match="the file cannot be read"):
        list(data.eval_batches("test", 4))


def test_both_sides_of_the_hold_out_have_every_class_and_share_no_group(family, written):
    dataset = family.open(written)
    splits = split_ids(dataset, family.config(written, holdout_fraction=0.34), final=False)
    groups = [set(dataset.groups(ids) or ids) for ids in (splits.train, splits.holdout)]
    assert not groups[0] & groups[1]
    presence = dataset.class_presence(dataset.ids("train"))
    if presence is None:
        return
    often = presence.sum(0) > 1
    for ids in (splits.train, splits.holdout):
        assert dataset.class_presence(ids).any(0)[often].all()


def without_labels(family: Family, root: Path) -> dict[str, set[str]]:
    """Removes labels of two tasks, of training and test images; returns which."""
    dataset = family.open(root)
    first, *_, second = dataset.tasks
    train, test = dataset.ids("train"), dataset.ids("test")
    gone = {first: {train[0], test[0]}, second: {train[1], test[-1]}}
    for task, ids in gone.items():
        for sample_id in ids:
            family.file(root, task, sample_id).unlink()
    return gone


def test_labels_may_be_missing_where_the_config_says_so(family, written, copied):
    whole = family.open(copied)
    allowed = build_dataset(family.config(copied, missing="skip"))
    assert allowed.fingerprint == whole.fingerprint and allowed.labelled(all_ids(allowed)) is None
    gone = without_labels(family, copied)
    with pytest.raises(DataError, match=r"every .*missing.*missing: skip"):
        family.open(copied)
    dataset = pickle.loads(pickle.dumps(build_dataset(family.config(copied, missing="skip"))))
    assert dataset.fingerprint != whole.fingerprint
    assert all(dataset.ids(split) == whole.ids(split) for split in ("train", "test"))
    found = dataset.labelled(all_ids(dataset))
    assert {task: set(np.array(all_ids(dataset))[~there]) for task, there in found.items()} == gone
    before = family.open(written)
    for sample_id in all_ids(dataset):
        sample, complete = (each.read(sample_id, tuple(whole.tasks)) for each in (dataset, before))
        for task, spec in dataset.tasks.items():
            assert_fits(spec, sample.labels[task], sample.valid[task], sample.image.shape[:2])
            if sample_id in gone.get(task, ()):
                assert not sample.valid[task].any()
            else:
                np.testing.assert_array_equal(sample.labels[task], complete.labels[task])
                np.testing.assert_array_equal(sample.valid[task], complete.valid[task])


def test_the_check_counts_missing_labels_by_task_and_split(family, copied):
    gone = without_labels(family, copied)
    dataset = build_dataset(family.config(copied, missing="skip"))
    report = check_dataset(dataset)
    assert report.ok
    rows = {(row["task"], row["split"]): row for row in report.tables()["partly labelled"]}
    for task, ids in gone.items():
        for split in ("train", "test"):
            listed = set(dataset.ids(split))
            lost = ids & listed
            # Some families have images that say nothing about a task anyway.
            assert rows[task, split]["labelled"] <= rows[task, split]["images"] - len(lost) < len(listed)


def test_every_batch_has_a_label_of_each_task_that_may_miss_some(family, copied):
    gone = without_labels(family, copied)
    config = family.config(copied, missing="skip", image_size=(24, 32), holdout_fraction=0.3)
    data = build_data(config, tuple(gone), torch.device("cpu"))
    for _, batch in zip(range(6), data.train_batches(2, seed=0), strict=False):
        assert all(batch.valid[task].any() for task in gone)


def test_a_task_of_which_no_label_exists_is_refused(family, copied):
    dataset = family.open(copied)
    task = next(iter(dataset.tasks))
    for sample_id in all_ids(dataset):
        family.file(copied, task, sample_id).unlink()
    with pytest.raises(DataError, match=r"(\d+) of \1 .*missing"):
        build_dataset(family.config(copied, missing="skip"))


@pytest.mark.slow
def test_a_run_on_partly_labelled_images_grows_and_is_measured(family, copied):
    from runs import trainer, with_
    from tiny import TINY

    from dtme_search.config import RunConfig

    gone = without_labels(family, copied)
    data = family.config(copied, missing="skip", image_size=(24, 32), holdout_fraction=0.3)
    tasks = tuple(family.open(copied, require_complete=False).tasks)[-3:]
    base = {**TINY, "data": data.model_dump(), "tasks": {task: {} for task in tasks}}
    config = with_(
        RunConfig.model_validate(base),
        expansion={"policy": "conflict", "start": 0.5, "num_images": 4},
        train__batch_size=2,
        train__num_steps=4,
        train__combine__kind="pcgrad",
    )
    assert set(gone) & set(tasks)
    run = trainer(config, build_data(config.data, tasks, torch.device("cpu")))
    result = run.run()
    assert all(np.isfinite(value) for value in result.metrics.values())
    assert run.state.report is not None and run.state.report.both is not None
