"""``RunConfig``: what it accepts, what it derives, and the line a user reads for everything else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dtme_search.config import (
    ExpansionConfig,
    FixedPlan,
    RunConfig,
    ScheduleConfig,
    StudyConfig,
    TaskConfig,
    TrainConfig,
    load_run_config,
    set_path,
)
from dtme_search.errors import ConfigError

WRONG = [
    # names
    ("trian: {}", "trian is unknown. Did you mean 'train'?"),
    (
        "1: 2",
        "1 is unknown. Known: baselines, data, expansion, model, plugins, schedule, seed, tasks, train.",
    ),
    ("train: {lrr: 1}", "train.lrr is unknown. Did you mean 'lr'?"),
    ("data: {augment: {flipp: 1}}", "data.augment.flipp is unknown. Did you mean 'flip'?"),
    ("tasks: {depth: {wieght: 1}}", "tasks.depth.wieght is unknown. Did you mean 'weight'?"),
    ("tasks: {depth: {mode: x}}", "tasks.depth.mode is unknown. Did you mean 'role'?"),
    # types
    ("train: {num_steps: many}", "train.num_steps must be a whole number, got 'many'."),
    ("train: {num_steps: 1.5}", "train.num_steps must be a whole number, got 1.5."),
    ("train: {lr: fast}", "train.lr must be a number, got 'fast'."),
    ("train: {lr: true}", "train.lr must be a number, got true."),
    ("seed: yes", "seed must be a whole number, got 'yes'."),
    ("train: {lr: .nan}", "train.lr must be a finite number, got nan."),
    ("train: {compile: 3}", "train.compile must be true or false, got 3."),
    ("model: {backbone: 3}", "model.backbone must be text, got 3."),
    ("train:", "train must be a mapping of keys to values, got nothing."),
    ("train: [1, 2]", "train must be a mapping of keys to values, got [1, 2]."),
    ("tasks: [depth]", "tasks must be a mapping of keys to values, got ['depth']."),
    ("data: {image_size: 64}", "data.image_size must be a list, got 64."),
    ("data: {image_size: [64]}", "data.image_size must hold 2 values, got [64]."),
    ("data: {image_size: [8, 8, 8]}", "data.image_size must hold 2 values, got [8, 8, 8]."),
    ("data: {image_size: [8, x]}", "data.image_size.1 must be a whole number, got 'x'."),
    (
        "model: {backbone_options: {depth: [1]}}",
        "model.backbone_options.depth must be a whole number or a number or true or false or text, got [1].",
    ),
    # choices
    (
        "expansion: {policy: conflicts}",
        "expansion.policy must be one of none, conflict, per_layer, fixed, got 'conflicts'. "
        "Did you mean 'conflict'?",
    ),
    (
        "expansion: {layers: [none, modulat]}",
        "expansion.layers.1: no operation is named 'modulat'. Did you mean 'modulate'?",
    ),
    (
        "schedule: {kind: off}",
        "schedule.kind: no schedule is named 'off'. "
        "Known: constant, diminish, fisher_trace, inverse_gradient_norm, switch.",
    ),
    (
        "train: {combine: {kind: cagard}}",
        "train.combine.kind: no way to combine is named 'cagard'. "
        "Did you mean 'cagrad' or 'pcgrad' or 'upgrad'?",
    ),
    ("train: {combine: {radius: 1.0}}", "train.combine.radius must be below 1, got 1.0."),
    (
        "{tasks: {depth: {}}, train: {combine: {kind: gradnorm}}}",
        "train.combine.kind must be sum for a single task, got gradnorm, which compares tasks. "
        "Name a second task or use sum.",
    ),
    (
        f"{{tasks: {{{', '.join(f'task{number}: {{}}' for number in range(13))}}}, "
        "train: {combine: {kind: mgda}}}",
        "tasks must be at most 12 for train.combine.kind mgda, got 13. "
        "Use pcgrad, imtl_g, aligned_mtl or nash_mtl.",
    ),
    (
        "{tasks: {depth: {}, edge: {role: auxiliary}}, schedule: {kind: fisher_trace}, "
        "train: {combine: {kind: dwa}}}",
        "schedule.kind must be constant, diminish or switch beside train.combine.kind dwa, got fisher_trace: "
        "both adapt. Set schedule.with_loss_weighting: true to have both.",
    ),
    # ranges
    ("train: {lr: 0}", "train.lr must be above 0, got 0."),
    ("train: {num_steps: 0}", "train.num_steps must be at least 1, got 0."),
    ("expansion: {start: 1.0}", "expansion.start must be below 1 or auto, got 1.0."),
    ("expansion: {range_layer_ratio: 1.2}", "expansion.range_layer_ratio must be at most 1, got 1.2."),
    ("data: {image_size: [0, 8]}", "data.image_size must be [height, width], both 1 or more, got [0, 8]."),
    (
        "data: {augment: {scale: [2, 1]}}",
        "data.augment.scale must be [low, high] with 0 < low <= high, got [2.0, 1.0].",
    ),
    # fields that must go together
    ("tasks: {}", "tasks must name at least one primary task, got none."),
    ("tasks: {depth: {role: auxiliary}}", "tasks must name at least one primary task, got ['depth']."),
    (
        "model: {pretrained: true, checkpoint: w.pt}",
        "model: pretrained and checkpoint cannot be combined, got both.",
    ),
    (
        "schedule: {kind: diminish, half_life: null}",
        "schedule: kind diminish needs half_life or decay_rate, got neither.",
    ),
    (
        "expansion: {policy: fixed}",
        "expansion: policy fixed needs a plan with at least one layer, got none. "
        "Use policy none for no growth.",
    ),
    (
        "expansion: {policy: per_layer}",
        "expansion: policy per_layer needs layers, one choice for each layer, got none.",
    ),
    # plans
    (
        "expansion: {plan: {modulate: {a: [[depth]]}}}",
        "expansion.plan.modulate: every key must be a whole number, got 'a'.",
    ),
    (
        "expansion: {plan: {expand: {-1: [[depth]]}}}",
        "expansion.plan.expand: every key must be at least 0, got -1.",
    ),
    ("expansion: {plan: {expand: {1: [depth]}}}", "expansion.plan.expand.1.0 must be a list, got 'depth'."),
    (
        "expansion: {plan: {modulate: {1: [[depht]]}}}",
        "expansion.plan must name tasks of this config, got ['depht'].",
    ),
    (
        "expansion: {plan: {modulate: {1: [[depth], [depth, edge]]}}}",
        "expansion.plan.modulate.1 must hold groups that are not empty and name each task at most once, "
        "got [['depth'], ['depth', 'edge']].",
    ),
    (
        "expansion: {plan: {expand: {1: [[]]}}}",
        "expansion.plan.expand.1 must hold groups that are not empty and name each task at most once, "
        "got [[]].",
    ),
    # several at once: the first in the order of the fields, and how many follow
    ("train: {lrr: 1, num_steps: 0}", "train.num_steps must be at least 1, got 0. (1 more.)"),
]


@pytest.mark.parametrize(("text", "sentence"), WRONG, ids=[text for text, _ in WRONG])
def test_a_wrong_file_gets_one_line_with_file_place_rule_and_value(tmp_path, text, sentence):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_run_config(str(file))
    assert str(caught.value) == f"{file}: {sentence}"


def test_a_long_value_is_cut_in_the_message(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train: {lr: " + "x" * 500 + "}")
    with pytest.raises(ConfigError) as caught:
        load_run_config(str(file))
    assert len(str(caught.value)) < len(str(file)) + 120


def test_defaults_are_the_papers():
    config = RunConfig()
    assert list(config.tasks) == ["semseg", "depth", "normals", "edge"]
    assert config.primary_tasks == tuple(config.tasks)
    assert config.auxiliary_tasks == ()
    assert (config.expansion.variance_ratio, config.expansion.start) == (100.0, 0.0)
    assert (config.train.optimizer, config.train.lr, config.train.weight_decay) == ("adam", 2e-5, 1e-6)
    assert config.expansion.num_images >= 128


def test_every_field_is_explained_in_the_schema():
    def sections(schema):
        yield from (schema, *schema["$defs"].values())

    unexplained = [
        name
        for model in (RunConfig, StudyConfig)
        for section in sections(model.model_json_schema())
        for name, field in section.get("properties", {}).items()
        # A section explains itself.
        if not field.get("description") and "$ref" not in field
    ]
    assert unexplained == []


def test_a_config_cannot_be_changed():
    config = RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.train.lr = 1.0


def test_roles_follow_the_order_of_the_config():
    tasks = {
        "edge": TaskConfig(role="auxiliary"),
        "semseg": TaskConfig(),
        "depth": TaskConfig(role="auxiliary"),
        "normals": TaskConfig(),
    }
    config = RunConfig(tasks=tasks)
    assert config.primary_tasks == ("semseg", "normals")
    assert config.auxiliary_tasks == ("edge", "depth")


@pytest.mark.parametrize(
    ("policy", "start", "count_from", "expansion_step", "total_steps"),
    [
        ("none", 0.5, "expansion", None, 100),
        ("conflict", 0.0, "start", 0, 100),
        ("conflict", 0.0, "expansion", 0, 100),
        ("conflict", 0.25, "start", 25, 100),
        ("conflict", 0.25, "expansion", 25, 125),
    ],
)
def test_steps(policy, start, count_from, expansion_step, total_steps):
    config = RunConfig(
        expansion=ExpansionConfig(policy=policy, start=start),
        train=TrainConfig(num_steps=100, count_from=count_from),
    )
    assert config.expansion_step == expansion_step
    assert config.total_steps == total_steps


@given(
    start=st.floats(0.0, 1.0, exclude_max=True),
    num_steps=st.integers(1, 10**6),
    count_from=st.sampled_from(["start", "expansion"]),
)
def test_the_network_always_trains_on_after_it_has_grown(start, num_steps, count_from):
    config = RunConfig(
        expansion=ExpansionConfig(start=start), train=TrainConfig(num_steps=num_steps, count_from=count_from)
    )
    assert config.expansion_step < config.total_steps


def test_the_baseline_of_a_task_is_the_same_recipe_with_one_task_and_no_growth():
    config = RunConfig(
        seed=3,
        tasks={"semseg": TaskConfig(), "edge": TaskConfig(weight=2.0, role="auxiliary")},
        expansion=ExpansionConfig(policy="fixed", plan=FixedPlan(modulate={1: (("semseg",), ("edge",))})),
        schedule=ScheduleConfig(kind="switch"),
        train=TrainConfig(num_steps=7, lr=0.1),
    )
    baseline = config.for_single_task("edge")
    assert baseline.primary_tasks == ("edge",)
    assert baseline.expansion_step is None
    assert baseline.schedule.kind == "constant"
    assert (baseline.seed, baseline.train, baseline.model, baseline.data) == (
        config.seed,
        config.train,
        config.model,
        config.data,
    )
    # model_copy checks nothing: the result must stand on its own.
    assert RunConfig.model_validate(baseline.model_dump()) == baseline


def test_words_of_truth_stay_true_where_any_text_may_stand():
    config = RunConfig.model_validate(
        {"model": {"backbone_options": {"qkv_bias": "no", "norm": "off", "a": "x"}}}
    )
    assert config.model.backbone_options == {"qkv_bias": False, "norm": False, "a": "x"}


@pytest.mark.parametrize("path", ["seed", "train.num_steps", "data.holdout_seed", "data.image_size.1"])
def test_numbers_that_something_below_cannot_hold_are_refused_with_the_largest(path):
    values = set_path(RunConfig().model_dump(mode="json"), path, 2**53 + 1)
    with pytest.raises(ValueError, match="must be at most 9007199254740992, got 9007199254740993"):
        RunConfig.model_validate(values)
    RunConfig.model_validate(set_path(values, path, 2**53))


@pytest.mark.parametrize("name", ["", "t" * 65, "a.b"])
def test_a_task_has_a_name_that_a_database_can_hold(name):
    with pytest.raises(ValueError, match="a name must have 1 to 64 letters and no dot"):
        RunConfig.model_validate({"tasks": {"semseg": {}, name: {}}})
