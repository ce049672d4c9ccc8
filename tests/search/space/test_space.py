"""Search space: what is suggested, what a point becomes, what counts as another space."""

from __future__ import annotations

import logging
from functools import cache

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial

from dtme_search.config import RunConfig, StudyConfig
from dtme_search.errors import ConfigError
from dtme_search.search.space.known_points import enqueued_point
from dtme_search.search.space.search_space import SearchSpace

NUM_LAYERS = 12
DESIGN = """
expansion.start:              {choices: [0.0, 0.25, 0.5, 0.75]}
expansion.variance_ratio:     {choices: [1, 10, 100, 500, 1000]}
expansion.policy:             {choices: [conflict, per_layer]}
expansion.range_layer_ratio:  {low: 0.0, high: 0.75, step: 0.0833333, when: {expansion.policy: conflict}}
expansion.range_threshold:    {low: 0.2, high: 0.6, when: {expansion.policy: conflict}}
expansion.layers.*:           {choices: [none, modulate, expand, both], when: {expansion.policy: per_layer}}
schedule.kind:                {choices: [constant, diminish, switch]}
schedule.half_life:           {low: 0.05, high: 0.8, when: {schedule.kind: diminish}}
"""


def make_study(search: str = DESIGN, **fields: object) -> StudyConfig:
    values = {"name": "test", "config": {}, "search": yaml.safe_load(search), **fields}
    return StudyConfig.model_validate(values)


def make_space(
    search: str = DESIGN, base: RunConfig | None = None, num_layers: int = NUM_LAYERS
) -> SearchSpace:
    return SearchSpace.from_study(make_study(search), base or RunConfig(), num_layers)


@cache
def design_space() -> SearchSpace:
    """The space of DESIGN; frozen, so all tests may share it."""
    return make_space()


def base_with(**expansion: object) -> RunConfig:
    return RunConfig.model_validate({"expansion": expansion})


def sample(space: SearchSpace, num_trials: int, sampler: optuna.samplers.BaseSampler | None = None):
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler or RandomSampler(seed=1))
    configs = []

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        config = space.suggest(trial)
        configs.append(config)
        grown = sum(choice != "none" for choice in config.expansion.layers)
        return -abs(config.expansion.start - 0.25), float(grown)

    study.optimize(objective, n_trials=num_trials)
    return study, configs


class TestSuggest:
    def test_random_trials_hold_active_parameters_only(self):
        study, configs = sample(design_space(), 50)
        assert {config.expansion.policy for config in configs} == {"conflict", "per_layer"}
        for trial, config in zip(study.trials, configs, strict=True):
            per_layer = config.expansion.policy == "per_layer"
            names = set(trial.params)
            assert len(config.expansion.layers) == (NUM_LAYERS if per_layer else 0)
            assert {f"expansion.layers.{layer}" in names for layer in range(NUM_LAYERS)} == {per_layer}
            assert ("expansion.range_threshold" in names) != per_layer
            assert ("schedule.half_life" in names) == (config.schedule.kind == "diminish")

    def test_values_reach_their_fields(self):
        _, configs = sample(design_space(), 50)
        grid = {round(0.0833333 * steps, 7) for steps in range(10)}
        ratios = {c.expansion.range_layer_ratio for c in configs if c.expansion.policy == "conflict"}
        assert ratios <= grid and len(ratios) > 4
        assert {config.expansion.variance_ratio for config in configs} == {1, 10, 100, 500, 1000}

    def test_frozen_trials_replay_to_equal_configs(self):
        space = design_space()
        study, configs = sample(space, 20)
        assert [space.suggest(trial) for trial in study.trials] == configs

    def test_fixed_trial_gives_its_values(self):
        space = make_space("train.lr: {low: 1.0e-5, high: 1.0e-3, log: true}")
        assert space.suggest(FixedTrial({"train.lr": 2e-4})).train.lr == 2e-4

    def test_a_condition_may_stand_before_what_it_names(self):
        space = make_space(
            "train.warmup_steps: {low: 0, high: 10, when: {train.optimizer: adamw}}\n"
            "train.optimizer: {choices: [adam, adamw]}"
        )
        assert list(space.distributions()) == ["train.optimizer", "train.warmup_steps"]
        study, _ = sample(space, 20)
        assert {len(trial.params) for trial in study.trials} == {1, 2}

    def test_conditions_chain(self):
        space = make_space(
            "expansion.policy: {choices: [none, conflict]}\n"
            "expansion.max_streams: {choices: [null, 2], when: {expansion.policy: conflict}}\n"
            "expansion.pair_threshold: {choices: [0.0, 0.4], when: {expansion.max_streams: 2}}"
        )
        study, _ = sample(space, 30)
        assert {len(trial.params) for trial in study.trials} == {1, 2, 3}

    def test_a_list_in_when_means_any_of_them(self):
        space = make_space(
            "schedule.kind: {choices: [constant, diminish, switch]}\n"
            "schedule.initial_weight: {low: 0.1, high: 1.0, when: {schedule.kind: [diminish, switch]}}"
        )
        study, configs = sample(space, 30)
        for trial, config in zip(study.trials, configs, strict=True):
            assert ("schedule.initial_weight" in trial.params) == (config.schedule.kind != "constant")

    def test_unlisted_layers_of_a_per_layer_search_are_none(self):
        space = make_space(
            "expansion.policy: {choices: [per_layer]}\nexpansion.layers.3: {choices: [modulate]}"
        )
        _, (config,) = sample(space, 1)
        assert config.expansion.layers == ("none",) * 3 + ("modulate",) + ("none",) * 8

    def test_layers_of_the_base_config_stay_where_they_are_not_searched(self):
        base = base_with(policy="per_layer", layers=["auto", "both", "none"])
        space = make_space("expansion.layers.1: {choices: [expand]}", base, num_layers=3)
        _, (config,) = sample(space, 1)
        assert config.expansion.layers == ("auto", "expand", "none")

    @pytest.mark.parametrize("first", ["star", "layer"])
    def test_a_single_layer_stands_above_the_star(self, first):
        lines = ["expansion.layers.*: {choices: [none]}", "expansion.layers.1: {choices: [both]}"]
        base = base_with(policy="per_layer", layers=["auto"] * 3)
        space = make_space("\n".join(lines if first == "star" else lines[::-1]), base, num_layers=3)
        _, (config,) = sample(space, 1)
        assert config.expansion.layers == ("none", "both", "none")

    def test_multivariate_tpe_samples_the_conditional_space(self):
        from dtme_search.search.study.sampling import build_sampler

        study, configs = sample(design_space(), 30, build_sampler(make_study(), seed=3))
        assert len(study.trials) == len(configs) == 30
        assert {trial.state for trial in study.trials} == {optuna.trial.TrialState.COMPLETE}

    def test_values_that_do_not_go_together_name_the_trial_and_its_parameters(self):
        space = make_space("expansion.policy: {choices: [fixed]}")
        with pytest.raises(ConfigError, match=r"trial 0 \(expansion.policy=fixed\): .*plan"):
            space.suggest(FixedTrial({"expansion.policy": "fixed"}))


class TestDistributions:
    @pytest.mark.parametrize(
        ("path", "line", "expected"),
        [
            ("train.num_steps", "{low: 10, high: 50, step: 20}", IntDistribution(10, 50, step=20)),
            ("train.num_steps", "{low: 10, high: 55, step: 20}", IntDistribution(10, 50, step=20)),
            ("train.batch_size", "{low: 1, high: 64, log: true}", IntDistribution(1, 64, log=True)),
            ("train.lr", "{low: 0.1, high: 1}", FloatDistribution(0.1, 1.0)),
            ("train.lr", "{low: 0.1, high: 0.95, step: 0.1}", FloatDistribution(0.1, 0.9, step=0.1)),
            ("train.grad_clip", "{choices: [null, 1.0]}", CategoricalDistribution([None, 1.0])),
            ("model.pretrained", "{choices: [false, true]}", CategoricalDistribution([False, True])),
        ],
    )
    def test_yaml_becomes_optunas_distribution(self, path, line, expected):
        assert make_space(f"{path}: {line}").distributions() == {path: expected}

    def test_values_on_a_grid_are_the_decimals_one_would_type(self):
        space = make_space("train.poly_power: {low: 0.0, high: 1.0, step: 0.1}")
        noisy = 3 * 0.1
        assert noisy != 0.3
        assert space.suggest(FixedTrial({"train.poly_power": noisy})).train.poly_power == 0.3

    def test_describe_has_a_row_for_each_line_of_the_file(self):
        rows = design_space().describe()
        assert [row.path for row in rows] == list(make_study().search)
        assert rows[5].values == "none, modulate, expand, both"
        assert rows[5].when == "expansion.policy = per_layer"
        assert rows[4].values == "0.2 to 0.6"


class TestMistakes:
    @pytest.mark.parametrize(
        ("search", "message"),
        [
            ("expansion.strat: {choices: [0.0]}", r"search.expansion.strat: 'strat' is unknown.*'start'"),
            ("expansion.layers.12: {choices: [none]}", "between 0 and 11, got 12"),
            ("expansion.layers.*: {choices: [3]}", r"search.expansion.layers.\*.*got 3"),
            ("data.image_size.*: {choices: [64]}", r"\* stands for all layers"),
            ("expansion.start: {low: 0.0, high: 1.5}", "expansion.start.*got 1.0|expansion.start.*got 1.5"),
            ("train.num_steps: {low: 100.5, high: 400.5}", "train.num_steps must be a whole number"),
            ("train.num_steps: {low: 1, high: 9, step: 1.3}", "train.num_steps must be a whole number"),
            ("model.pretrained: {choices: [1, true]}", "choices must differ"),
            (
                "schedule.kind: {choices: [constant, switch]}\n"
                "schedule.half_life: {low: 0.1, high: 0.5, when: {schedule.kind: swich}}",
                "half_life.when: schedule.kind must be one of constant, switch, got 'swich'.*'switch'",
            ),
            (
                "expansion.layers.*: {choices: [none, both]}\n"
                "expansion.start: {choices: [0.0, 0.5], when: {expansion.layers.*: both}}",
                "when: must name one searched path",
            ),
            (
                "train.lr: {choices: [0.1, 0.2], when: {train.poly_power: 1.0}}\n"
                "train.poly_power: {choices: [0.5, 1.0], when: {train.lr: 0.1}}",
                "circular, got train.lr -> train.poly_power -> train.lr",
            ),
            (
                "expansion.policy: {choices: [conflict, per_layer]}",
                "per_layer needs a choice for every layer",
            ),
        ],
    )
    def test_is_found_before_any_trial(self, search, message):
        with pytest.raises(ConfigError, match=f"study test: .*{message}"):
            make_space(search)

    def test_layers_of_the_base_config_must_fit_the_backbone(self):
        base = base_with(policy="per_layer", layers=["auto"] * 6)
        with pytest.raises(ConfigError, match="each of the 12 layers, got 6"):
            make_space("expansion.layers.*: {choices: [none, both]}", base)


class TestPoint:
    def test_a_mapping_lands_where_it_says(self):
        space = design_space()
        point = {"expansion.policy": "per_layer", "expansion.layers.*": "none", "expansion.layers.2": "both"}
        study = optuna.create_study(sampler=RandomSampler(seed=0))
        study.enqueue_trial(enqueued_point(space, point))
        config = space.suggest(study.ask())
        assert config.expansion.layers == ("none", "none", "both", *["none"] * 9)

    def test_values_missing_the_grid_by_a_rounding_are_put_on_it(self):
        point = design_space().point({"expansion.policy": "conflict", "expansion.range_layer_ratio": 0.25})
        assert point == {"expansion.policy": "conflict", "expansion.range_layer_ratio": 0.2499999}

    def test_choices_come_with_the_type_of_the_space(self):
        (value,) = design_space().point({"expansion.variance_ratio": 100.0}).values()
        assert isinstance(value, int)

    @pytest.mark.parametrize(
        ("point", "message"),
        [
            ({"expansion.strat": 0.5}, "'expansion.strat' is not searched.*'expansion.start'"),
            ({"expansion.start": 0.3}, "expansion.start must be one of 0.0, 0.25, 0.5, 0.75, got 0.3"),
            ({"expansion.policy": "conflict", "expansion.range_layer_ratio": 0.2}, "grid.*nearest is 0.16"),
            (
                {"expansion.policy": "conflict", "expansion.range_threshold": 0.7},
                "within 0.2 to 0.6, got 0.7",
            ),
            (
                {"expansion.policy": "conflict", "expansion.range_threshold": True},
                "must be a number, got True",
            ),
            ({"expansion.range_threshold": 0.5}, "only when expansion.policy is conflict, which the point"),
            (
                {"expansion.policy": "conflict", "expansion.layers.0": "both"},
                "expansion.layers.0 is searched only when expansion.policy is per_layer, got 'conflict'",
            ),
            ("papr", "no point is named 'papr'.*'paper'"),
        ],
    )
    def test_a_point_outside_the_space_is_refused(self, point, message):
        with pytest.raises(ConfigError, match=f"study test: enqueue: .*{message}"):
            enqueued_point(design_space(), point)

    def enqueued(self, space: SearchSpace, name: str) -> RunConfig:
        """Config of the trial that the point becomes; Optuna would warn about values outside the space."""
        study = optuna.create_study(sampler=RandomSampler(seed=0))
        point = enqueued_point(space, name)
        study.enqueue_trial(point)
        trial = study.ask()
        config = space.suggest(trial)
        assert trial.params == point
        return config

    @pytest.mark.parametrize(
        ("search", "base", "policy"),
        [
            ("expansion.policy: {choices: [conflict, none]}", RunConfig(), "none"),
            ("expansion.start: {choices: [0.0, 0.5]}", base_with(policy="none"), "none"),
            (
                "expansion.range_layer_ratio: {low: 0.0, high: 0.5}\n"
                "expansion.null_layer_ratio: {choices: [0.5, 0]}",
                RunConfig(),
                "conflict",
            ),
            (
                "expansion.range_layer_ratio: {low: 0.0, high: 0.5}",
                base_with(null_layer_ratio=0.0),
                "conflict",
            ),
            (DESIGN, RunConfig(), "per_layer"),
        ],
    )
    def test_unexpanded_never_grows(self, search, base, policy):
        expansion = self.enqueued(make_space(search, base), "unexpanded").expansion
        assert expansion.policy == policy
        if policy == "conflict":
            assert expansion.range_layer_ratio == expansion.null_layer_ratio == 0
        if policy == "per_layer":
            assert set(expansion.layers) == {"none"}

    def test_unexpanded_says_what_the_space_lacks(self):
        with pytest.raises(ConfigError, match=r"no unexpanded model\. Add none to the choices"):
            enqueued_point(make_space("expansion.range_layer_ratio: {low: 0.0, high: 0.5}"), "unexpanded")

    def test_paper_is_as_near_as_the_distributions_allow(self, caplog):
        search = DESIGN + (
            "expansion.max_streams: {choices: [1, 2, 4], when: {expansion.policy: conflict}}\n"
            "expansion.num_task_tokens: {low: 1, high: 4}\n"
            "expansion.selection: {choices: [random, conflict]}\n"
            "train.lr: {low: 1.0e-3, high: 1.0e-2}\n"
            "train.batch_size: {choices: [2, 8]}\n"
        )
        with caplog.at_level(logging.INFO, logger="dtme_search"):
            config = self.enqueued(make_space(search), "paper")
        expansion = config.expansion
        assert (expansion.policy, expansion.start, expansion.variance_ratio) == ("conflict", 0.0, 100.0)
        assert (expansion.range_layer_ratio, expansion.null_layer_ratio) == (0.4999998, 0.5)
        assert (expansion.range_threshold, expansion.max_streams) == (0.2, 4)
        assert (expansion.num_task_tokens, expansion.selection) == (1, "conflict")
        # What the paper's point leaves open: the base config's value, or the low end.
        assert (config.train.batch_size, config.train.lr) == (8, 1e-3)
        told = [record.getMessage() for record in caplog.records if record.name.startswith("dtme_search")]
        assert len(told) == 2 and "range_threshold = 0.2" in told[0] and "max_streams = 4" in told[1]

    def test_paper_needs_conflicts(self):
        with pytest.raises(ConfigError, match=r"needs expansion\.policy conflict, the space has only none"):
            enqueued_point(make_space("train.lr: {choices: [0.1]}", base_with(policy="none")), "paper")


class TestFingerprint:
    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("start:              {choices: [0.0, 0.25, 0.5, 0.75]}", "start: {choices: [0.0, 0.25, 0.5]}"),
            ("low: 0.2, high: 0.6", "low: 0.2, high: 0.7"),
            ("step: 0.0833333", "step: 0.05"),
            ("schedule.half_life:           {low: 0.05", "schedule.half_life: {log: true, low: 0.05"),
            ("range_threshold: ", "null_threshold: "),
            ("when: {schedule.kind: diminish}", "when: {schedule.kind: [diminish, switch]}"),
        ],
    )
    def test_changes_with_the_space(self, old, new):
        assert old in DESIGN
        assert make_space(DESIGN.replace(old, new)).fingerprint != design_space().fingerprint

    @pytest.mark.parametrize(
        "base",
        [
            {"train": {"num_steps": 500}},
            {"seed": 1},
            {"expansion": {"token_std": 0.1}},
            {"tasks": {"semseg": {}, "depth": {}}},
            # Not read by the base config itself, but by trials of other schedules.
            {"schedule": {"switch_at": 0.7}},
        ],
    )
    def test_changes_with_the_base_config(self, base):
        assert make_space(base=RunConfig.model_validate(base)).fingerprint != design_space().fingerprint

    def test_changes_with_the_backbone_of_other_layers(self):
        assert make_space(num_layers=6).fingerprint != design_space().fingerprint

    @pytest.mark.parametrize(
        "base",
        [
            {"data": {"root": "/elsewhere", "storage": "loader", "loader_workers": 5}},
            {"train": {"checkpoint_seconds": 5.0}},
            {"data": {"nyud": {"num_classes": 39}}},
        ],
    )
    def test_does_not_change_with_where_or_how_fast(self, base):
        assert make_space(base=RunConfig.model_validate(base)).fingerprint == design_space().fingerprint

    def test_does_not_change_with_the_order_of_lines(self):
        turned = "\n".join(reversed(DESIGN.strip().splitlines()))
        assert make_space(turned).fingerprint == design_space().fingerprint


def test_each_choice_of_a_section_is_made_once_under_its_conditions_near_to_the_base():
    space = make_space(
        """
        model.architecture_options.taskprompter.channel_heads:
          {choices: [1, 4], when: {model.architecture: taskprompter}}
        model.architecture: {choices: [vit, taskprompter]}
        model.drop_path: {low: 0.0, high: 0.3}
        train.lr: {choices: [1.0e-3, 2.0e-3]}
        """,
        RunConfig.model_validate({"train": {"lr": 2e-3}}),
    )
    made = [
        (what.split(" (")[0], config.model.architecture, config.model.architecture_options, config.train.lr)
        for what, config in space.with_each_choice("model")
    ]
    heads = "search.model.architecture_options.taskprompter.channel_heads"
    one, four = ({"taskprompter": {"channel_heads": number}} for number in (1, 4))
    assert made == [
        ("search.model.architecture: vit", "vit", {}, 2e-3),
        ("search.model.architecture: taskprompter", "taskprompter", one, 2e-3),
        (f"{heads}: 1", "taskprompter", one, 2e-3),
        (f"{heads}: 4", "taskprompter", four, 2e-3),
        ("search.model.drop_path: 0.3", "vit", {}, 2e-3),  # of a range the upper end
    ]
