"""``StudyConfig``: what a study file may say, and the line a user reads for everything else."""

import pytest
import yaml

from dtme_search.config import Distribution, RunConfig, StudyConfig, base_config, load_study_config, shipped
from dtme_search.errors import ConfigError

HEAD = "name: s\nconfig: {}\n"
SEARCH = "search: {train.lr: {low: 1e-5, high: 1e-3, log: true}}\n"

WRONG = [
    # search paths
    (HEAD, "search is missing."),
    (HEAD + "search: {}", "search must name at least one path, got none."),
    (
        HEAD + "search: {train.lrr: {choices: [1]}}",
        "search.train.lrr: 'lrr' is unknown. Did you mean 'lr'?",
    ),
    (
        HEAD + "search: {expanson.start: {choices: [0]}}",
        "search.expanson.start: 'expanson' is unknown. Did you mean 'expansion'?",
    ),
    (
        HEAD + "search: {tasks.dept.weight: {choices: [1]}}",
        "search.tasks.dept.weight: 'dept' is not a task of the config. Did you mean 'depth'?",
    ),
    (
        HEAD + "search: {train.lr.x: {choices: [1]}}",
        "search.train.lr.x: train.lr is a single value with nothing below it, got 'x'.",
    ),
    (
        HEAD + "search: {expansion.plan: {choices: [1]}}",
        "search.expansion.plan.choices: expansion.plan is a section, not a field. Known: expand, lora, "
        "modulate, other.",
    ),
    (
        HEAD + "search: {data.image_size.2: {choices: [64]}}",
        "search.data.image_size.2: data.image_size has the indices 0 to 1, got '2'.",
    ),
    # values of the wrong type or out of the field's range
    (
        HEAD + "search: {expansion.policy: {choices: [conflict, pre_layer]}}",
        "search.expansion.policy.choices must be one of none, conflict, per_layer, fixed, got 'pre_layer'. "
        "Did you mean 'per_layer'?",
    ),
    (
        HEAD + "search: {expansion.layers.*: {choices: [none, bth]}}",
        "search.expansion.layers.*.choices: no operation is named 'bth'. Did you mean 'both'?",
    ),
    (
        HEAD + "search: {train.lr: {choices: [0.1, fast]}}",
        "search.train.lr.choices must be a number, got 'fast'.",
    ),
    (
        HEAD + "search: {expansion.range_layer_ratio: {low: 0, high: 1.2}}",
        "search.expansion.range_layer_ratio.high must be at most 1, got 1.2.",
    ),
    (
        HEAD + "search: {train.num_steps: {low: 0.5, high: 9}}",
        "search.train.num_steps.low must be a whole number, got 0.5.",
    ),
    (
        HEAD + "search: {train.num_steps: {low: 1, high: 9, step: 0.5}}",
        "search.train.num_steps.step must be a whole number, got 0.5.",
    ),
    (
        HEAD + "search: {expansion.policy: {low: 0, high: 1}}",
        "search.expansion.policy.low must be one of none, conflict, per_layer, fixed, got 0.",
    ),
    # distributions
    (HEAD + "search: {train.lr: 3}", "search.train.lr must be a mapping of keys to values, got 3."),
    (HEAD + "search: {train.lr: {lo: 0}}", "search.train.lr.lo is unknown. Did you mean 'low' or 'log'?"),
    (
        HEAD + "search: {train.lr: {low: 1}}",
        "search.train.lr must have choices, or both low and high, got low.",
    ),
    (
        HEAD + "search: {train.lr: {}}",
        "search.train.lr must have choices, or both low and high, got neither.",
    ),
    (
        HEAD + "search: {train.lr: {low: 1, high: 2, choices: [1]}}",
        "search.train.lr: choices and low/high/step/log cannot be combined, got both.",
    ),
    (
        HEAD + "search: {train.lr: {low: 1, high: 1}}",
        "search.train.lr.low must be below high, got low 1 and high 1.",
    ),
    (
        HEAD + "search: {train.lr: {low: 2, high: 1}}",
        "search.train.lr.low must be below high, got low 2 and high 1.",
    ),
    (
        HEAD + "search: {train.lr: {low: 1, high: 2, step: 0}}",
        "search.train.lr.step must be above 0, got 0.",
    ),
    (
        HEAD + "search: {train.lr: {low: 0, high: 2, log: true}}",
        "search.train.lr.low must be above 0 with log, got 0.",
    ),
    (
        HEAD + "search: {train.lr: {low: 1, high: 2, step: 1, log: true}}",
        "search.train.lr.step must be left out with log, got 1.",
    ),
    (HEAD + "search: {train.lr: {choices: []}}", "search.train.lr.choices must not be empty."),
    (
        HEAD + "search: {train.lr: {choices: [1, 1.0]}}",
        "search.train.lr.choices must differ from each other, got [1, 1.0].",
    ),
    # conditions
    (
        HEAD + "search: {train.lr: {choices: [1], when: {expansion.policy: conflict}}}",
        "search.train.lr.when must name other searched paths, got 'expansion.policy'.",
    ),
    (
        HEAD + "search: {expansion.policy: {choices: [none, conflict]}, "
        "expansion.start: {choices: [0], when: {expansion.polcy: conflict}}}",
        "search.expansion.start.when must name other searched paths, got 'expansion.polcy'. "
        "Did you mean 'expansion.policy'?",
    ),
    (
        HEAD + "search: {train.lr: {choices: [1], when: {train.lr: 1}}}",
        "search.train.lr.when must name other searched paths, got 'train.lr'.",
    ),
    # names
    (
        HEAD + SEARCH + "objectives: {delta_m: maximize}",
        "objectives must name measures, got 'delta_m'. Did you mean 'delta_m_percent'?",
    ),
    (
        HEAD + SEARCH + "objectives: {delta_m_percent: max}",
        "objectives.delta_m_percent must be one of maximize, minimize, got 'max'. Did you mean 'maximize'?",
    ),
    (
        HEAD + SEARCH + "objectives: {}",
        "objectives must name at least one of delta_m_percent, worst_gain_percent, param_overhead_percent, "
        "step_cost_ratio, inference_flops_ratio, latency_ms, inference_memory_mb, got none.",
    ),
    (
        HEAD + SEARCH + "limits: {overhead: 1}",
        "limits must name measures, got 'overhead'. Did you mean 'param_overhead_percent'?",
    ),
    (
        HEAD + SEARCH + "limits: {step_cost_ratio: lots}",
        "limits.step_cost_ratio must be a number, got 'lots'.",
    ),
    (
        HEAD + SEARCH + "enqueue: [unexpandd]",
        "enqueue must name points, got 'unexpandd'. Did you mean 'unexpanded'?",
    ),
    (HEAD + SEARCH + "enqueue: paper", "enqueue must be a list, got 'paper'."),
    (HEAD + SEARCH + "enqueue: [3]", "enqueue.0 must be text or a mapping of keys to values, got 3."),
    (
        HEAD + SEARCH + "enqueue: [{train.lr: [1]}]",
        "enqueue.0.train.lr must be true or false or a whole number or a number or text, got [1].",
    ),
    (HEAD + SEARCH + "sampler: tpe", "sampler must be a mapping of keys to values, got 'tpe'."),
    (
        HEAD + SEARCH + "sampler: {name: bayes}",
        "sampler.name: no sampler is named 'bayes'. Known: gp, nsga2, plan, random, tpe.",
    ),
    (
        HEAD + SEARCH + "pruner: {name: median}",
        "pruner.name must be none or pareto with 2 objectives, got 'median': "
        "Optuna's pruners compare one value.",
    ),
    (
        HEAD + SEARCH + "objectives: {delta_m_percent: maximize}\npruner: {name: pareto}",
        "pruner.name must be none, median, halving or hyperband with one objective, got 'pareto': "
        "it weighs objectives against each other.",
    ),
    (
        HEAD + SEARCH + "objectives: {step_cost_ratio: minimize, param_overhead_percent: minimize}\n"
        "pruner: {name: pareto}",
        "pruner.name must be none without delta_m_percent: maximize as objective, got 'pareto': "
        "pruners look at delta_m.",
    ),
    (
        HEAD + "search: {train.num_evaluations: {choices: [2, 4]}}\npruner: {name: pareto}",
        "pruner.name must be none while train.num_evaluations is searched, got 'pareto': "
        "evaluations of the same number would not be comparable.",
    ),
    (HEAD + SEARCH + "pruner: {name: pareto, eta: 1}", "pruner.eta must be above 1, got 1."),
    (HEAD + SEARCH + "pruner: {name: pareto, min_trials: 1}", "pruner.min_trials must be at least 2, got 1."),
    (
        HEAD + SEARCH + "objectives: {step_cost_ratio: minimize}\npruner: {name: median}",
        "pruner.name must be none without delta_m_percent: maximize as objective, got 'median': "
        "pruners look at delta_m.",
    ),
    ("config: {}\n" + SEARCH, "name is missing."),
    (
        "name: a/b\nconfig: {}\n" + SEARCH,
        "name must be made of letters, digits, '.', '_' and '-' and begin with a letter or digit, got 'a/b'.",
    ),
    (
        "name: ..\nconfig: {}\n" + SEARCH,
        "name must be made of letters, digits, '.', '_' and '-' and begin with a letter or digit, got '..'.",
    ),
    ("name: s\nconfig: 3\n" + SEARCH, "config must be text or a mapping of keys to values, got 3."),
    (HEAD + SEARCH + "trials: 0", "trials must be at least 1, got 0."),
]


def write(tmp_path, text):
    file = tmp_path / "study.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(("text", "sentence"), WRONG, ids=[text for text, _ in WRONG])
def test_a_wrong_file_gets_one_line_with_file_place_rule_and_value(tmp_path, text, sentence):
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_study_config(str(file))
    assert str(caught.value) == f"{file}: {sentence}"


def test_the_whole_form_is_read(tmp_path):
    study = load_study_config(
        str(
            write(
                tmp_path,
                HEAD
                + """
search:
  expansion.policy:   {choices: [none, conflict]}
  expansion.start:    {low: 0, high: 0.75, step: 0.25, when: {expansion.policy: [conflict]}}
  expansion.layers.*: {choices: [none, both], when: {expansion.policy: none}}
  train.grad_clip:    {choices: [null, 1]}
  train.compile:      {choices: [true, false]}
  tasks.depth.weight: {low: 1e-2, high: 10, log: true}
limits: {param_overhead_percent: 1}
enqueue: [paper, {expansion.policy: none}]
""",
            )
        )
    )
    assert study.search["train.grad_clip"].choices == (None, 1)
    assert study.search["expansion.start"].when == {"expansion.policy": ("conflict",)}
    assert study.search["tasks.depth.weight"].low == 0.01
    assert study.enqueue == ("paper", {"expansion.policy": "none"})
    assert study.objectives == {"delta_m_percent": "maximize", "param_overhead_percent": "minimize"}


@pytest.mark.parametrize(
    ("path", "bounds", "is_integer"),
    [
        ("expansion.range_threshold", {"low": 0, "high": 1}, False),
        ("schedule.half_life", {"low": 1, "high": 3, "step": 1}, False),
        ("train.num_steps", {"low": 10, "high": 100.0}, True),
        ("train.grad_clip", {"low": 1, "high": 2}, False),
        ("expansion.max_streams", {"low": 1, "high": 4}, True),
        ("tasks.depth.weight", {"low": 1, "high": 2}, False),
        ("model.backbone_options.depth", {"low": 4, "high": 12, "step": 2}, True),
        ("model.backbone_options.mlp_ratio", {"low": 2.0, "high": 4.0}, False),
    ],
)
def test_bounds_are_of_the_type_of_their_field(path, bounds, is_integer):
    study = StudyConfig(name="s", config={}, search={path: Distribution(**bounds)})
    assert study.search[path].is_integer is is_integer


def test_a_study_survives_json():
    study = StudyConfig(name="s", config={}, search={"train.lr": {"low": 1, "high": 2}}, enqueue=("paper",))
    assert StudyConfig.model_validate_json(study.model_dump_json()) == study


@pytest.mark.parametrize("name", sorted(shipped("studies")))
def test_shipped_studies_are_valid_and_named_like_their_file(name):
    assert load_study_config(name).name == name


class TestBaseConfig:
    def study(self, config):
        return StudyConfig(name="s", config=config, search={"train.lr": {"choices": [0.1]}})

    def test_inline(self):
        base = base_config(self.study({"train": {"num_steps": 7}}), None, ("train.lr=0.5",))
        assert (base.train.num_steps, base.train.lr) == (7, 0.5)

    def test_a_path_is_relative_to_the_study(self, tmp_path):
        (tmp_path / "base.yaml").write_text("seed: 5")
        assert base_config(self.study("base.yaml"), tmp_path).seed == 5

    def test_a_name_is_looked_up(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "configs").mkdir()
        (tmp_path / "configs" / "mine.yaml").write_text("seed: 6")
        assert base_config(self.study("mine"), tmp_path / "elsewhere").seed == 6

    def test_nothing_given_means_the_defaults(self):
        assert base_config(self.study({})) == RunConfig()

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"train": {"lr": "x"}}, r"^study s: config: train\.lr must be a number, got 'x'\.$"),
            (
                "nyud_vit_tny",
                r"^study s: config: No config is named 'nyud_vit_tny'\. Known, nearest first: nyud_vit_tiny,",
            ),
            ("absent.yaml", r"^study s: config: .*absent\.yaml: no such file\.$"),
        ],
    )
    def test_a_wrong_one_names_the_study(self, tmp_path, config, message):
        with pytest.raises(ConfigError, match=message):
            base_config(self.study(config), tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        *("data.holdout_seed", "data.holdout_fraction", "data.limit_train", "data.name"),
        *("data.scenes.seed", "data.nyud.num_classes"),
    ],
)
def test_what_is_measured_cannot_be_searched(tmp_path, path):
    file = tmp_path / "s.yaml"
    choices = {"data.name": ["scenes", "nyud"]}
    searched = {path: {"choices": choices.get(path, [2, 4])}}
    file.write_text(yaml.safe_dump({"name": "s", "config": {}, "search": searched, "enqueue": []}))
    with pytest.raises(ConfigError, match=rf"search\.{path}: cannot be searched, because it changes what is"):
        load_study_config(str(file))


@pytest.mark.parametrize("name", ["train", "s" * 201])
def test_a_study_has_a_folder_of_its_own(name):
    with pytest.raises(ValueError, match=r"name must not be train.* and have at most 200 letters"):
        StudyConfig(name=name, config={}, search={"train.lr": {"choices": [1.0]}}, enqueue=())
