"""Objectives and limits beside delta_m and overhead: hand-worked, searched for real, refused in one line."""

from __future__ import annotations

import pytest
from tiny import SEARCH, grown, write_tiny_study

from dtme_search.errors import DtmeSearchError
from dtme_search.reporting import best_trial, export_best, trials_table
from dtme_search.search import PROPOSAL_ATTR, front_numbers, load_study, optimize

TASKS = {"depth": {}, "edge": {}, "normals": {"role": "auxiliary"}}
SMALL = {"tasks": TASKS, "train.num_steps": 2, "train.num_evaluations": 1}
EVERYWHERE = grown("both", "modulate", "none", start=0.0)


def searched(folder, changes=None, **fields):
    enqueue = ["unexpanded", EVERYWHERE, grown("none", "none", "modulate", start=0.0)]
    file = write_tiny_study(folder, {**SMALL, **(changes or {})}, trials=3, enqueue=enqueue, **fields)
    return optimize(file, workdir=folder / "runs", device="cpu"), file


@pytest.fixture(scope="module")
def priced(tmp_path_factory):
    """A study with every further measure, as objective or as limit."""
    folder = tmp_path_factory.mktemp("priced")
    objectives = {"worst_gain_percent": "maximize", "inference_flops_ratio": "minimize"}
    limits = {
        "latency_ms": 1e6,
        "inference_memory_mb": 1e6,
        "metric.edge": 1e6,
        "delta_m_percent.depth": 1e6,
        "inference_flops_ratio": 1.9,
    }
    found, _ = searched(folder, objectives=objectives, limits=limits, inference={"repeats": 3})
    return found


def test_every_measure_follows_from_what_the_trials_recorded(priced):
    table = trials_table(priced).set_index("trial")
    assert list(table["worst_gain_percent"]) == list(
        table[["gain_depth_percent", "gain_edge_percent"]].min(axis=1)
    )
    assert list(table["delta_m_percent.depth"]) == list(table["gain_depth_percent"])
    assert list(table["metric.edge"]) == list(table["metric_edge"])
    ratios = list(table["inference_flops_ratio"])
    assert ratios[0] == 1.0
    # Three streams through all three layers, or through the last one: nearly all of this network.
    assert ratios[1] > ratios[2] > 1.0
    assert (table["latency_ms"] > 0).all()
    assert table["inference_memory_mb"][1] > table["inference_memory_mb"][0]
    values = [trial.values for trial in priced.optuna.trials]
    assert values == table[["worst_gain_percent", "inference_flops_ratio"]].to_numpy().tolist()


def test_limits_and_the_front_go_by_them(priced, tmp_path):
    table = trials_table(priced).set_index("trial")
    assert list(table["feasible"]) == [ratio <= 1.9 for ratio in table["inference_flops_ratio"]]
    feasible = table[table["feasible"]]
    best = int(feasible["worst_gain_percent"].idxmax())
    assert best in front_numbers(priced)
    assert best_trial(priced) == best
    text = export_best(priced, tmp_path / "best.yaml", force=True).read_text(encoding="utf-8")
    assert f"# worst gain: {table['worst_gain_percent'][best]:+.2f}" in text


def test_what_a_prediction_costs_is_measured_once_for_equal_networks(tmp_path):
    fields = {
        "objectives": {"delta_m_percent": "maximize", "latency_ms": "minimize"},
        "inference": {"repeats": 3, "warmup": 0},
        "search": {"train.lr": {"choices": [1e-3, 2e-3, 3e-3]}},
        "baselines": {"recipe": "base"},
    }
    file = write_tiny_study(tmp_path, SMALL, trials=3, **fields)
    found = optimize(file, workdir=tmp_path / "runs", device="cpu")
    assert len({trial.values[1] for trial in found.optuna.trials}) == 1
    with pytest.raises(DtmeSearchError, match=r"inference.repeats was 3, is 4"):
        fields["inference"]["repeats"] = 4
        optimize(
            write_tiny_study(tmp_path, SMALL, trials=4, **fields), workdir=tmp_path / "runs", device="cpu"
        )


def test_a_metric_may_be_the_goal_of_the_plan_sampler_and_of_pruning(tmp_path):
    when = {"expansion.policy": "per_layer"}
    search = {
        "expansion.policy": {"choices": ["none", "per_layer"]},
        "expansion.start": {"choices": [0.0, 0.5], "when": when},
        "expansion.layers.*": SEARCH["expansion.layers.*"],
    }
    found, _ = searched(
        tmp_path,
        {"train.num_evaluations": 2},
        search=search,
        objectives={"metric.depth": "minimize", "latency_ms": "minimize"},
        limits={"inference_flops_ratio": 1.5},
        inference={"repeats": 3},
        sampler={"name": "plan"},
        pruner={"name": "pareto", "min_trials": 2, "num_warmup_evaluations": 0, "min_correlation": -1.0},
    )
    more = write_tiny_study(
        tmp_path,
        {**SMALL, "train.num_evaluations": 2},
        **found.config.model_dump(include={"objectives", "limits", "inference", "sampler", "pruner"}),
        search=search,
        trials=6,
    )
    found = optimize(more, workdir=tmp_path / "runs", device="cpu")
    proposed = [trial for trial in found.optuna.trials if PROPOSAL_ATTR in trial.user_attrs]
    runs = {run.trial: run for run in load_study("tiny", workdir=tmp_path / "runs").records.runs("tiny")}
    assert len(proposed) == 3
    for trial in proposed:
        assert runs[trial.number].measure("inference_flops_ratio") <= 1.5, "known before it was trained"
    rungs = found.records.rungs("tiny")
    assert all(rung.measure("metric.depth") is not None for rung in rungs)


WRONG = [
    ({"objectives": {"delta_m_percent.seg": "maximize"}}, "must name primary tasks of the base config"),
    ({"objectives": {"metric.normals": "minimize"}}, "must name primary tasks of the base config"),
    ({"objectives": {"metric.depth": "maximize"}}, "objectives.metric.depth must be minimize"),
    ({"objectives": {"metric.depth+edge": "minimize"}}, "objectives must name measures"),
    ({"objectives": {"latency": "minimize"}}, "Did you mean 'latency_ms'"),
    ({"limits": {"delta_m_percent.": 1.0}}, "limits must name measures"),
    ({"objectives": {"delta_m_percent.depth+depth": "maximize"}}, "must name each task once"),
    ({"inference": {"repeats": 1}}, "inference.repeats"),
]


@pytest.mark.parametrize(("fields", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_what_does_not_exist_is_refused_in_one_line(tmp_path, fields, sentence):
    file = write_tiny_study(tmp_path, SMALL, **fields)
    with pytest.raises(DtmeSearchError) as caught:
        optimize(file, workdir=tmp_path / "runs", device="cpu")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
