"""A user's own parts in a run: they act, they are part of its name, and a mistake ends it in one line."""

import pytest
import torch
from own_parts import PARTS, write_parts
from runs import assert_same_run, trainer
from tiny import TINY, with_paths

from dtme_search.config import RunConfig, canonical
from dtme_search.data import build_data
from dtme_search.errors import BrokenRule, ConfigError
from dtme_search.models import sizes_of
from dtme_search.testing import check_parts
from dtme_search.token_space import ExpansionPlan
from dtme_search.training.callbacks import TrainingInterrupted

USED = {
    "tasks": {
        "semseg": {},
        "depth": {"loss": "squares", "metric": "worst"},
        "normals": {"role": "auxiliary"},
    },
    "schedule": {"kind": "ramp", "options": {"ramp": {"size": 0.5}}},
    "expansion": {
        "policy": "per_layer",
        "layers": ["none", "modulate+shift", "shift"],
        "operation_options": {"shift": {"size": 2}},
    },
}


def config_with(file: str, **changes) -> RunConfig:
    values = {**TINY, **USED, "plugins": [file]}
    return RunConfig.model_validate(with_paths(values, {"train.combine": {"kind": "running"}, **changes}))


@pytest.fixture(scope="module")
def data():
    return build_data(
        RunConfig.model_validate(TINY).data, ("semseg", "depth", "normals"), torch.device("cpu")
    )


@pytest.fixture
def parts(tmp_path) -> str:
    return write_parts(tmp_path)


def test_the_parts_keep_the_rules():
    source: dict[str, object] = {}
    exec(PARTS, source)
    check_parts(source["PLUGINS"])
    with pytest.raises(BrokenRule, match=r"'operation' must be a family of parts: datasets, "):
        check_parts({"operation": {}})


def test_a_run_uses_all_of_them_and_goes_on_after_a_pause(parts, data, tmp_path):
    config = config_with(parts)
    whole = trainer(config, data)
    result = whole.run()
    assert result.plan.operations() == ("none", "modulate+shift", "shift")
    assert result.plan.options == {"shift.size": 2}
    sizes = sizes_of(["modulate", "shift"], result.plan.options, 24, {}, [parts])
    assert sizes == {"modulate": 48, "shift": 24}
    assert result.plan.num_parameters(24, {}, sizes) == 3 * (48 + 24 + 24)
    assert whole.state.schedule.weights(5)["normals"] == pytest.approx(0.25)
    assert whole.state.method.state()["mean"].ne(1).all()
    assert dict(whole.model.named_parameters())["operation_shift.2.operation.vectors"].shape == (3, 24)
    assert result.metrics["depth"] > 1.0

    stops = iter([False] * 6 + [True])
    paused = trainer(config, data, tmp_path, should_stop=lambda: next(stops))
    with pytest.raises(TrainingInterrupted):
        paused.run()
    resumed = trainer(config, data, tmp_path)
    assert_same_run(whole, result, resumed, resumed.run())


def test_a_plan_with_an_operation_of_ones_own_is_written_and_read(parts):
    tasks = ("semseg", "depth")
    groups = {"shift": {1: (("semseg",), ("depth",))}, "expand": {0: (("depth",),)}}
    plan = ExpansionPlan(tasks, 2, groups, {"shift.size": 0, "other.size": 3})
    assert plan.options == {"num_task_tokens": 1, "shift.size": 0}
    assert ExpansionPlan.from_json(plan.to_json()) == plan
    fixed = {"policy": "fixed", "plan": plan.to_config(), "operation_options": {"shift": {"size": 0}}}
    expansion = RunConfig.model_validate({"expansion": fixed}).expansion
    assert ExpansionPlan.from_config(expansion, tasks, 2) == plan
    assert expansion.possible_operations == ("expand", "shift")
    assert "each task" in plan.table().splitlines()[-1]
    assert plan.fingerprint != ExpansionPlan(tasks, 2, groups, {"shift.size": 1}).fingerprint


def test_options_are_part_of_the_fingerprint_where_they_are_read(parts):
    one = canonical(config_with(parts))
    for path in ("schedule.options.ramp.size", "train.combine.options.running.size"):
        assert canonical(config_with(parts, **{path.replace(".", "__"): 3.0})) != one
    assert canonical(config_with(parts, expansion__operation_options__shift__size=3)) != one
    assert canonical(config_with(parts, schedule__options__other={"size": 1})) == one
    assert canonical(config_with(parts, expansion__operation_options__other={"size": 1})) == one


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule__kind": "ram"}, r"schedule\.kind: no schedule is named 'ram'\. Did you mean 'ramp'"),
        (
            {"schedule__options__ramp__sise": 1.0},
            r"schedule\.options\.ramp: sise is unknown\. Did you mean 'size'",
        ),
        ({"train__combine__kind": "runing"}, r"train\.combine\.kind: no way to combine is named 'runing'"),
        (
            {"train__combine__options__running__size": "big"},
            r"train\.combine\.options\.running: size must be a number, got 'big'",
        ),
        ({"expansion__layers": ["shift", "shitf", "none"]}, r"expansion: no operation is named 'shitf'"),
        (
            {"expansion__operation_options__shift__size": "x"},
            r"expansion\.operation_options\.shift: size must be a number, got 'x'",
        ),
    ],
)
def test_what_is_wrong_in_yaml_is_told(parts, data, changes, message):
    with pytest.raises(ConfigError, match=message):
        trainer(config_with(parts, **changes), data).run()


MISTAKES = [
    ("return setting.tasks.scaled(setting.options.size", "return setting.tasks.scaled(-1.0", "weights"),
    ("return 1 / self.mean", "return torch.ones(2)", "weights"),
    ("moved = (1 - self.pace)", "moved = (1 - self.paec)", "learn"),
    ("return tokens + vectors[groups][:, None, None]", "return tokens[:, :, 1:]", "enter"),
    ("options: embed_dim,", "options: 2 * embed_dim,", "num_parameters"),
    ("(prediction - target).square().mean(1)", "(prediction - target).square()", "per_pixel"),
    ("(prediction - target).square().mean(1)", "(prediction - target).mean(1).log()", "per_pixel"),
    ("return max(self.worst)", "return self.worst", "compute"),
    ("    def reset(self):", "    def resets(self):", "build"),
]


@pytest.mark.parametrize(("right", "wrong", "method"), MISTAKES)
def test_a_mistake_ends_a_run_with_the_part_the_method_and_the_rule(tmp_path, data, right, wrong, method):
    file = write_parts(tmp_path, (right, wrong))
    expected = rf"^[a-z ]+ '\w+' of own_parts\.py: {method} must .+\. See docs/plugins\.md\.$"
    with pytest.raises(BrokenRule, match=expected) as caught:
        trainer(config_with(file), data).run()
    assert "\n" not in str(caught.value)
