"""``expansion.start: auto`` in a search: a choice among others, equal work once, known to the sampler."""

from __future__ import annotations

from tiny import write_tiny_study

from dtme_search.config import RunConfig
from dtme_search.models import describe_backbone
from dtme_search.reporting import export_trial
from dtme_search.search import optimize
from dtme_search.search.storage.studies import stored_base_config
from dtme_search.search.study.preparation import space_of
from dtme_search.search.study.resolving import Resolver

CHANGES = {
    "tasks": {"depth": {}, "edge": {}, "normals": {}},
    "train.num_steps": 4,
    "expansion.policy": "conflict",
    "expansion.auto_starts": [0.25, 0.5],
}


def test_a_found_start_is_the_same_work_as_that_start_and_an_export_names_it(tmp_path):
    choices = ["auto", 0.25, 0.5]
    file = write_tiny_study(
        tmp_path,
        CHANGES,
        search={"expansion.start": {"choices": choices}},
        trials=3,
        enqueue=[{"expansion.start": choice} for choice in choices],
    )
    study = optimize(file, workdir=tmp_path / "runs", device="cpu")
    auto, *given = study.records.runs("tiny")
    assert auto.expansion_step in (1, 2)
    same = given[auto.expansion_step - 1]
    assert same.origin_trial == 0
    assert same.resolved_fingerprint == auto.resolved_fingerprint
    assert (auto.steps_trained, given[0].steps_trained) == (4, 0 if auto.expansion_step == 1 else 3)
    text = export_trial(study, 0, tmp_path / "found.yaml", force=True).read_text(encoding="utf-8")
    assert f"start: {auto.expansion_step / 4}" in text
    base = stored_base_config(study.optuna)
    assert RunConfig.model_validate_json(auto.config).expansion_step == auto.expansion_step

    resolver = Resolver(space_of(study.config, base), describe_backbone(base.model, base.data.image_size))
    params = study.optuna.trials[0].params
    assert resolver.is_unknown(params)
    rows = study.records.conflicts("tiny", 0), study.records.gains("tiny", 0)
    resolver.learn(params, *rows, auto.expansion_step)
    assert not resolver.is_unknown(params)
    found = resolver(params)
    assert found.start == auto.expansion_step
    assert found.key == resolver({"expansion.start": auto.expansion_step / 4}).key
