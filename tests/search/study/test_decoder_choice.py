"""A study that searches the decoder: each choice has baselines of its own, trained once."""

from __future__ import annotations

import json

import pytest
from tiny import write_tiny_study

from dtme_search.config import RunConfig, load_study_config
from dtme_search.errors import ConfigError
from dtme_search.metrics import delta_m
from dtme_search.reporting import trials_table, write_report
from dtme_search.search import optimize
from dtme_search.search.study.preparation import read_study, space_of
from dtme_search.tasks import depth

pytestmark = pytest.mark.slow

DECODERS = ("simple", "dpt", "invpt")
BASE = {
    "tasks": {"depth": {}},
    "data.image_size": [32, 64],
    "train.num_steps": 6,
    "model.decoder_channels": 8,
    "model.decoder_options": {"invpt": {"mixing_channels": 8}},
}
SEARCH = {"model.decoder": {"choices": [*DECODERS]}, "expansion.policy": {"choices": ["none", "conflict"]}}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Every decoder unexpanded, then InvPT grown."""
    folder = tmp_path_factory.mktemp("decoders")
    points = [{"model.decoder": decoder, "expansion.policy": "none"} for decoder in DECODERS]
    points.append({"model.decoder": "invpt", "expansion.policy": "conflict"})
    file = write_tiny_study(folder, BASE, search=SEARCH, trials=4, enqueue=points)
    return optimize(file, workdir=folder / "runs", device="cpu")


def test_baselines_are_told_apart_and_trained_once(study):
    rows = study.records.baselines()
    assert sorted(json.loads(row.config)["model"]["decoder"] for row in rows) == sorted(DECODERS)
    by_decoder = {json.loads(row.config)["model"]["decoder"]: row.fingerprint for row in rows}
    for run in study.records.runs("tiny"):
        decoder = RunConfig.model_validate_json(run.config).model.decoder
        assert json.loads(run.baselines) == {"depth": by_decoder[decoder]}


def test_delta_m_is_over_the_own_architecture_and_beside_it_over_that_of_the_base_config(study, tmp_path):
    """With a single task an unexpanded trial is its own baseline."""
    runs = study.records.runs("tiny")
    assert [run.delta_m_percent for run in runs[:3]] == [0.0, 0.0, 0.0]
    (base,) = (
        row for row in study.records.baselines() if json.loads(row.config)["model"]["decoder"] == "simple"
    )
    for run in runs:
        value = study.records.evaluations("tiny", run.trial)[-1].value
        by_hand = delta_m({"depth": value}, {"depth": base.value}, [depth()])
        assert run.delta_m_base_percent == pytest.approx(by_hand)
    assert runs[0].delta_m_base_percent == 0.0
    assert all(abs(run.delta_m_base_percent) > 0 for run in runs[1:3])
    table = trials_table(study)
    assert list(table["delta_m_base_percent"]) == [run.delta_m_base_percent for run in runs]
    text = write_report(study, tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Against the baselines of the base config" in text and "base: delta_m over baselines" in text


def test_a_study_that_searches_no_architecture_has_one_delta_m(finished_study):
    assert all(run.delta_m_base_percent is None for run in finished_study.study.records.runs("tiny"))
    assert "delta_m_base_percent" not in trials_table(finished_study.study)


def test_tuned_baselines_keep_the_architecture_of_the_trial(tmp_path):
    search = SEARCH | {"train.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    file = write_tiny_study(tmp_path, BASE, search=search, trials=1, baselines={"tune": 2})
    space = space_of(*read_study(file))
    assert space.base.baselines.rule == "tuned"
    recipes = {"depth": {"train.lr": 0.003}}
    rules = space.base.baselines.model_copy(update={"recipes": recipes})
    trial = space.base.model_copy(
        update={"baselines": rules, "model": space.base.model.model_copy(update={"decoder": "invpt"})}
    )
    alone = trial.for_single_task("depth")
    assert (alone.model.decoder, alone.train.lr) == ("invpt", 0.003)


@pytest.mark.parametrize(
    ("changes", "choices", "complaint"),
    [
        ({"data.image_size": [32, 48]}, ["simple", "invpt"], r"multiple of 32 \(4 patches\) .* invpt"),
        ({}, ["simple", "dtp"], r"no decoder is named 'dtp'\. Did you mean 'dpt'\?"),
    ],
)
def test_a_choice_that_cannot_be_built_is_refused_before_any_training(tmp_path, changes, choices, complaint):
    search = {"model.decoder": {"choices": choices}}
    file = write_tiny_study(tmp_path, BASE | changes, search=search, trials=1)
    load_study_config(file)
    with pytest.raises(ConfigError, match=complaint):
        optimize(file, workdir=tmp_path / "runs", device="cpu")
    assert not (tmp_path / "runs").exists()
