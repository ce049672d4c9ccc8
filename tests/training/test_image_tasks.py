"""A run with tasks about the whole image beside a dense one, on images of which some lack labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from own_folder import DESCRIPTION, ids, write_own
from runs import CPU, assert_same_run, trainer, with_
from tiny import TINY

from dtme_search.config import RunConfig, load_description
from dtme_search.data import build_data
from dtme_search.data.folder.dataset import FolderDataset
from dtme_search.deploy.program import Program, as_raw, in_form
from dtme_search.errors import ConfigError
from dtme_search.metrics import build_meter
from dtme_search.reporting import predict_image
from dtme_search.tasks import image_class, load_specs, save_specs
from dtme_search.training import Predictor, no_image_priors
from dtme_search.training.choices import as_chosen
from dtme_search.training.data_map import image_scores

NUM = 24
TASKS = {
    "plants": DESCRIPTION["tasks"]["plants"],
    "tree": {"kind": "image_class", "file": "t.csv", "column": "tree", "classes": ["apple", "pear", "plum"]},
    "marks": {"kind": "image_labels", "file": "t.csv", "column": ["red", "old"]},
    "crop": {"kind": "image_value", "file": "t.csv", "column": "kg"},
}
UNKNOWN = (1, 4, 7)
"""Images without a crop."""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    file = write_own(folder, NUM, {**DESCRIPTION, "tasks": TASKS}, missing="skip")
    rows = ["id,tree,red,old,kg"]
    for index, sample_id in enumerate(ids(NUM)):
        kg = "" if index in UNKNOWN else index
        rows.append(f"{sample_id},{('apple', 'apple', 'pear')[index % 3]},{index % 2},{index // 2 % 2},{kg}")
    (folder / "orchard" / "t.csv").write_text("\n".join(rows))
    return file


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return with_(
        RunConfig.model_validate(TINY),
        data__name="folder",
        data__holdout_fraction=0.25,
        tasks={task: {} for task in TASKS},
        expansion__policy="conflict",
        expansion__start=0.5,
    )


@pytest.fixture(scope="module")
def data(config, file):
    dataset = FolderDataset(load_description(file), file.parent / "orchard")
    return build_data(config.data, tuple(TASKS), CPU, dataset=dataset)


def test_it_trains_grows_by_the_conflicts_of_all_tasks_and_gives_the_same_again(config, data):
    first = trainer(config, data)
    result = first.run()
    assert all(np.isfinite(each) for row in result.evaluations for each in row.metrics.values())
    report = first.state.report
    assert report is not None
    assert report.tasks == tuple(TASKS)
    rates = np.asarray(report.range_rates)
    assert rates.shape[1:] == (4, 4)
    assert (rates[:, 1, 2] > 0).any() and (rates[:, 0, 1] > 0).any(), "two tasks of images, and a dense one"
    second = trainer(config, data)
    assert_same_run(first, result, second, second.run())


def test_priors_are_those_of_the_training_labels(data):
    found = no_image_priors(data, "holdout", 4)
    places = {sample_id: index for index, sample_id in enumerate(ids(NUM))}
    train, held_out = ([places[each] for each in data.splits.ids(split)] for split in ("train", "holdout"))
    assert found["tree"] == np.mean([index % 3 != 2 for index in held_out])
    kg = np.mean([index for index in train if index not in UNKNOWN])
    errors = [abs(index - kg) for index in held_out if index not in UNKNOWN]
    assert found["crop"] == pytest.approx(np.mean(errors), rel=1e-6)
    shares = [np.mean([index % 2 for index in held_out]), np.mean([index // 2 % 2 for index in held_out])]
    assert found["marks"] == pytest.approx(np.mean(shares))


def test_scores_of_a_data_map_are_probabilities_of_the_true_label(config, data):
    model = trainer(config, data).model.eval()
    kept = image_scores(model, data, tuple(TASKS), config.train, NUM, seed=0)
    found = kept.scores
    batches = list(data.analysis_batches(NUM, 4, 0))
    outputs = [model(batch.images, ("tree", "marks")) for batch in batches]
    chance = torch.cat([each["tree"][:, :, 0, 0].softmax(1) for each in outputs])
    truth = torch.cat([batch.targets["tree"][:, 0, 0] for batch in batches])
    expected = chance[torch.arange(len(truth)), truth].tolist()
    assert found["tree"] == pytest.approx(expected, abs=1e-4)
    yes = torch.cat([each["marks"][:, :, 0, 0].sigmoid() for each in outputs])
    marks = torch.cat([batch.targets["marks"][:, :, 0, 0] for batch in batches])
    assert found["marks"] == pytest.approx((1 - (marks - yes).abs()).mean(1).tolist(), abs=1e-4)
    right = torch.cat([each["tree"][:, :, 0, 0].argmax(1) for each in outputs]) == truth
    assert kept.hits["tree"] == tuple(map(int, right.tolist()))
    every = ((yes > 0.5) == (marks > 0.5)).all(1)
    assert kept.hits["marks"] == tuple(map(int, every.tolist()))
    assert kept.hits.keys() == {"tree", "marks"}
    indices = torch.cat([batch.indices for batch in batches]).tolist()
    assert indices == data.analysis_order(NUM, 0)
    unknown = [ids(NUM).index(data.splits.train[index]) in UNKNOWN for index in indices]
    assert [score is None for score in found["crop"]] == unknown


def test_a_picture_gets_words_panels_and_numbers(config, data, file, tmp_path):
    predictor = Predictor.of_model(trainer(config, data).model, data.specs, config, CPU)
    picture = next((file.parent / "orchard" / "photos").iterdir())
    words: dict[str, str] = {}
    rasters = {task: tmp_path / f"{task}.csv" for task in ("tree", "marks", "crop")}
    predict_image(predictor, picture, tmp_path / "p.png", rasters=rasters, on_words=words.__setitem__)
    assert words.keys() == rasters.keys()
    assert words["tree"] in TASKS["tree"]["classes"]
    lines = [line.split(",") for line in rasters["tree"].read_text().split()]
    assert lines[0] == ["tree", "probability"]
    assert sum(float(chance) for _, chance in lines[1:]) == pytest.approx(1, abs=1e-4)
    assert max(lines[1:], key=lambda line: float(line[1]))[0] == words["tree"]
    assert float(rasters["crop"].read_text().split()[1].split(",")[1]) == pytest.approx(
        float(words["crop"]), rel=1e-3
    )
    assert (tmp_path / "p.png").stat().st_size > 5000


def test_a_deployed_network_says_one_thing_about_each_image(config, data):
    model = trainer(config, data).model
    images = torch.randint(256, (3, 3, *config.data.image_size), dtype=torch.uint8)
    found = dict(zip(TASKS, Program(model, data.specs, tuple(TASKS), "imagenet")(images), strict=True))
    assert {task: tuple(each.shape) for task, each in found.items()} == {
        "plants": (3, 32, 48), "tree": (3,), "marks": (3, 2), "crop": (3, 1),
    }  # fmt: skip
    for task, label in found.items():
        spec = data.specs[task]
        torch.testing.assert_close(in_form(as_raw(label, spec), spec), label)


def test_a_metric_of_pixels_is_refused_and_one_of_images_too(config, data):
    with pytest.raises(
        ConfigError, match=r"tasks\.marks\.metric must suit labels of whole images, got 'edge_f'"
    ):
        as_chosen(data, with_(config, tasks={"marks": {"metric": "edge_f"}}))
    chosen = as_chosen(
        data, with_(config, tasks={"tree": {"metric": "macro_f1"}, "plants": {"metric": "accuracy"}})
    )
    assert {name: spec.metric for name, spec in chosen.specs.items()} == {
        "tree": "macro_f1",
        "plants": "accuracy",
    }
    build_meter(chosen.specs["plants"])


def test_descriptions_survive_beside_a_checkpoint(tmp_path):
    room = image_class("room", ("bath", "hall"))
    save_specs(tmp_path / "tasks.json", {"room": room})
    assert load_specs(tmp_path / "tasks.json") == {"room": room}


def test_the_description_of_this_test_is_yaml_alone(file):
    assert set(yaml.safe_load(file.read_text())["tasks"]) == set(TASKS)
