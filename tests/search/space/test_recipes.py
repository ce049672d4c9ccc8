"""Baselines follow what a study searches: one meaning of delta_m for every field of the schema."""

import typing
from collections.abc import Iterator

import pytest
from pydantic import BaseModel, ValidationError
from tiny import with_paths

from dtme_search.config import RunConfig, StudyConfig, run_fingerprint, set_path
from dtme_search.config.messages import unwrap
from dtme_search.errors import ConfigError
from dtme_search.search.space.recipes import FEW, candidates, recipes_of_trials, with_rule
from dtme_search.search.space.search_space import SearchSpace
from dtme_search.token_space import ExpansionPlan
from dtme_search.training.identity import RunContext, work_fingerprint

TASK = "depth"
CONTEXT = RunContext("cpu", "float32", "2.0", "1.0")
BASES = {
    "plain": {},
    "counted from the expansion": {"train.count_from": "expansion", "expansion.start": 0.5},
    "scheduled": {"tasks.edge.role": "auxiliary", "schedule.kind": "diminish"},
    "another data set": {"data.name": "taskonomy"},
}
"""What else is set while a field is searched: some fields are read in such configs only."""
TRIED = (1, 2, 3, 0.25, 0.5, 0.75, True, False, "x", "taskonomy")


def config_of(changes):
    return RunConfig.model_validate(with_paths(RunConfig().model_dump(mode="json"), changes))


def fields(model: type[BaseModel] = RunConfig, above: str = "") -> Iterator[tuple[str, object]]:
    """Every field of the schema that holds a single value, with its annotation."""
    for name, field in model.model_fields.items():
        path, kind = f"{above}{name}", unwrap(field.annotation)
        if _is_section(kind):
            yield from fields(kind, f"{path}.")
        elif typing.get_origin(kind) is dict and _is_section(typing.get_args(kind)[1]):
            yield from fields(typing.get_args(kind)[1], f"{path}.{TASK}.")
        elif typing.get_origin(kind) is tuple and Ellipsis not in typing.get_args(kind):
            yield f"{path}.0", typing.get_args(kind)[0]
        elif typing.get_origin(kind) not in (dict, tuple):
            yield path, kind


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def two_values(base: RunConfig, path: str, kind: object) -> list[RunConfig]:
    """The base config and one that differs from it in the field alone, if any value can be found."""
    literal = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    for value in (*literal, *TRIED):
        try:
            other = RunConfig.model_validate(set_path(base.model_dump(mode="json"), path, value))
        except ValidationError:
            continue
        if other != base:
            return [base, other]
    return [base]


def alone(config: RunConfig) -> RunConfig:
    """What a study of one task would train as its trial."""
    values = config.model_dump()
    values["tasks"] = {TASK: values["tasks"][TASK] | {"role": "primary"}}
    values["baselines"] = {}
    return RunConfig.model_validate(values)


def work(config: RunConfig) -> str:
    return work_fingerprint(config, ExpansionPlan((TASK,), 3), "data", CONTEXT)


# A checkpoint counts by its content, and there is none here.
FIELDS = [
    (path, kind)
    for path, kind in fields()
    if not path.startswith("baselines.") and path != "model.checkpoint"
]


def test_the_walk_finds_every_kind_of_field():
    paths = [path for path, _ in FIELDS]
    assert {"seed", "train.lr", "data.image_size.0", f"tasks.{TASK}.weight", "model.decoder"} <= set(paths)
    assert len(paths) > 60


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_a_task_alone_is_its_own_baseline_whatever_is_searched(base):
    for path, kind in FIELDS:
        for config in two_values(config_of(base), path, kind):
            assert work(alone(config)) == work(config.for_single_task(TASK)), path


@pytest.mark.slow
def test_a_field_that_shapes_a_single_task_run_changes_its_baseline_or_is_named():
    shaping = set()
    for path, kind in FIELDS:
        configs = two_values(RunConfig(), path, kind)
        if len({work(alone(config)) for config in configs}) == 1:
            continue
        shaping.add(path)
        values = [_value(config, path) for config in configs]
        study = StudyConfig.model_validate(
            {
                "name": "s",
                "config": {},
                "search": {path: {"choices": values}},
                "baselines": {"recipe": "base"},
            }
        )
        space = with_rule(study, SearchSpace.from_study(study, configs[0], 3))
        trials = [space.config({path: value}) for value in values]
        changes = len({run_fingerprint(trial.for_single_task(TASK)) for trial in trials}) == 2
        assert changes or path in trials[1].baselines.in_words(), path
    assert {"train.lr", "train.num_steps", "model.drop_path", "data.augment.flip", "seed"} <= shaping


def _value(config, path):
    values = config.model_dump(mode="json")
    for part in path.split("."):
        values = values[int(part)] if isinstance(values, list) else values[part]
    return values


def ruled(search, base=None, **fields):
    values = {"name": "s", "config": {}, "search": search, **fields}
    study = StudyConfig.model_validate(values)
    return with_rule(study, SearchSpace.from_study(study, base or RunConfig(), 3))


GROWTH = {
    "expansion.start": {"low": 0.0, "high": 0.75},
    "expansion.policy": {"choices": ["none", "conflict"]},
}
LR = {"train.lr": {"low": 1e-5, "high": 1e-2, "log": True}}


def test_a_study_that_searches_growth_alone_has_one_recipe_and_keeps_its_name():
    space = ruled(GROWTH)
    assert space.base.baselines.rule == "same"
    assert "baselines" not in space.definition


def test_few_choices_are_followed_and_a_range_is_tuned():
    assert ruled({"train.lr": {"choices": [1e-4, 1e-3]}}).base.baselines.rule == "same"
    tuned = ruled(LR).base.baselines
    assert (tuned.rule, tuned.tried) == ("tuned", FEW)
    assert ruled(LR, baselines={"tune": 3}).base.baselines.tried == 3
    assert ruled(LR, baselines={"recipe": "trial"}).base.baselines.rule == "same"


def test_recipes_of_a_task_are_counted_by_what_it_trains():
    space = ruled({"train.lr": {"choices": [1e-4, 1e-3]}, f"tasks.{TASK}.weight": {"choices": [1.0, 2.0]}})
    assert len(recipes_of_trials(space, TASK)) == 2 * 2 + 1  # the base config has yet another rate
    assert len(recipes_of_trials(space, "edge")) == 2 + 1


def test_weights_of_losses_are_not_tuned_but_named():
    rule = ruled({f"tasks.{TASK}.weight": {"low": 0.1, "high": 10.0}}).base.baselines
    assert rule.rule == "base"
    assert f"tasks.{TASK}.weight 1.0" in rule.in_words()


def test_recipes_to_try_begin_with_that_of_the_base_config_and_differ():
    recipes = candidates(ruled(LR), TASK, 4)
    assert recipes[0] == {"train.lr": RunConfig().train.lr}
    assert len({each["train.lr"] for each in recipes}) == 4
    assert recipes == candidates(ruled(LR), TASK, 4)


def test_a_baseline_of_another_recipe_is_still_measured_like_the_trial():
    search = {**LR, "data.holdout_seed": {"choices": [0, 1]}, "seed": {"choices": [0, 1]}}
    space = ruled(search, baselines={"recipe": "base"})
    trial = space.config({"train.lr": 1e-3, "data.holdout_seed": 1, "seed": 1})
    baseline = trial.for_single_task(TASK)
    assert baseline.train.lr == RunConfig().train.lr
    assert (baseline.data.holdout_seed, baseline.seed) == (1, 1)


def test_the_rule_itself_is_not_searched():
    with pytest.raises(ConfigError, match=r"search\.baselines\.tried: is set by the study"):
        ruled({"baselines.tried": {"choices": [1, 2]}})
