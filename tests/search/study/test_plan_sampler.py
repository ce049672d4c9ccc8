"""``sampler: {name: plan}``: proposals from the database alone, new work only, within limits, explained."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import numpy as np
import optuna
import pytest
from tiny import SEARCH, TINY, grown, write_tiny_study

from dtme_search.config import RunConfig, StudyConfig, validate
from dtme_search.models import BackboneInfo
from dtme_search.search import PROPOSAL_ATTR, optimize
from dtme_search.search.space.search_space import SearchSpace
from dtme_search.search.storage.records import Records
from dtme_search.search.storage.rows import RunRow, TrunkRow
from dtme_search.search.study.plan_sampler import PlanSampler, study_sampler
from dtme_search.search.study.resolving import Resolver
from dtme_search.search.study.sampling import build_sampler

LAYERS = 6
BACKBONE = BackboneInfo(
    num_layers=LAYERS,
    embed_dim=24,
    num_heads=2,
    num_parameters=60_000,
    num_prefix_tokens=1,
    patch_size=8,
    grid=(6, 4),
)
_WHEN = {"expansion.policy": "per_layer"}
PER_LAYER = {
    "expansion.policy": {"choices": ["none", "per_layer"]},
    "expansion.start": {"choices": [0.0, 0.5], "when": _WHEN},
    "expansion.lr_multiplier": {
        "low": 1.0,
        "high": 10.0,
        "log": True,
        "when": {"expansion.policy": "per_layer"},
    },
    "expansion.layers.*": SEARCH["expansion.layers.*"],
}
"""Conditional, and too large to be listed."""
SMALL = {
    "expansion.start": {"choices": [0.0, 0.5]},
    "expansion.layers.0": {"choices": ["none", "modulate", "expand"]},
    "expansion.layers.1": {"choices": ["none", "modulate"]},
}
"""11 different plans in 12 sets."""


@dataclass
class Searched:
    """A study whose trials are told a made-up gain instead of being trained."""

    config: StudyConfig
    space: SearchSpace
    records: Records
    study: optuna.Study

    @classmethod
    def make(cls, folder, search=None, **fields) -> Searched:
        plain = {"name": "s", "config": TINY, "search": search or SMALL, "sampler": {"name": "plan"}}
        config = validate(StudyConfig, {**plain, "enqueue": [], **fields}, "test")
        values = {**TINY, "tasks": {"semseg": {}, "depth": {}, "normals": {}}}
        if "expansion.policy" not in config.search:
            values["expansion"] = {"policy": "per_layer", "layers": ["none"] * LAYERS}
        base = validate(RunConfig, values, "test")
        url = f"sqlite:///{folder}/s.db"
        records = Records(url)
        records.create_tables()
        space = SearchSpace.from_study(config, base, LAYERS)
        study = optuna.create_study(storage=url, directions=list(config.objectives.values()))
        made = cls(config, space, records, study)
        study.sampler = made.sampler()
        return made

    def sampler(self) -> PlanSampler:
        return study_sampler(self.config, 0, self.space, self.records, BACKBONE)

    def ask(self) -> optuna.Trial:
        trial = self.study.ask()
        self.space.suggest(trial)
        return trial

    def plan(self, trial) -> object:
        return Resolver(self.space, BACKBONE)(trial.params)

    def tell(self, trial: optuna.Trial) -> None:
        plan = self.plan(trial)
        left = 1 - plan.start / plan.end
        modulated, expanded = plan.shares["modulate"], plan.shares["expand"]
        gain = left * (2 * modulated[1] - expanded[0] + 0.3 * modulated[0]) + plan.seed
        self.records.save_run(
            RunRow(study="s", trial=trial.number, state="complete", fingerprint="f", step_cost_ratio=1 + left)
        )
        values = {
            "delta_m_percent": gain,
            "param_overhead_percent": plan.overhead,
            "step_cost_ratio": 1 + left,
        }
        self.study.tell(trial, [values[name] for name in self.config.objectives])

    def run(self, number: int) -> list[object]:
        plans = []
        for _ in range(number):
            trial = self.ask()
            plans.append(self.plan(trial))
            self.tell(trial)
        return plans


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)


def test_a_small_space_is_searched_without_a_repeat_and_the_best_is_found_early(tmp_path):
    searched = Searched.make(tmp_path)
    plans = searched.run(11)
    assert len({plan.key for plan in plans}) == 11
    assert not plans[0].grows, "all gains rest on the network that never grows"
    gains = [trial.values[0] for trial in searched.study.trials]
    assert max(gains[:6]) >= 2.0, "modulation of layer 1 from the start"
    more = searched.run(1)
    assert more[0].key in {plan.key for plan in plans}, (
        "nothing new is left: TPE proposes, and nothing is trained"
    )


@pytest.mark.slow
@pytest.mark.parametrize("search", [SMALL, PER_LAYER])
def test_two_samplers_with_equal_states_propose_equally(tmp_path, search):
    searched = Searched.make(tmp_path, search)
    for _ in range(6):
        mine, other = searched.sampler(), searched.sampler()
        proposals = [sampler.standing(searched.study).propose(sampler._pool) for sampler in (mine, other)]
        assert proposals[0].params == proposals[1].params and proposals[0].reason == proposals[1].reason
        searched.run(1)


def test_a_sampler_that_is_killed_leaves_nothing_behind(tmp_path):
    """The database alone decides: a new process at every trial proposes what one process would."""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    kept, killed = Searched.make(tmp_path / "a", PER_LAYER), Searched.make(tmp_path / "b", PER_LAYER)
    for _ in range(7):
        killed.study = optuna.load_study(
            study_name=killed.study.study_name,
            storage=f"sqlite:///{tmp_path}/b/s.db",
            sampler=killed.sampler(),
        )
        first, second = kept.ask(), killed.ask()
        assert first.params == second.params
        kept.tell(first), killed.tell(second)


@pytest.mark.parametrize("search", [SMALL, PER_LAYER])
def test_four_workers_never_do_the_same_work(tmp_path, search):
    searched = Searched.make(tmp_path, search)
    running, keys = [], []
    for _ in range(11):
        searched.study.sampler = searched.sampler()
        running.append(searched.ask())
        keys.append(searched.plan(running[-1]).key)
        if len(running) == 4:
            searched.tell(running.pop(0))
    assert len(set(keys)) == 11


def test_what_failed_is_not_tried_again(tmp_path):
    searched = Searched.make(tmp_path)
    searched.run(4)
    trial = searched.ask()
    trial.set_user_attr("error", "diverged")
    searched.study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert searched.plan(trial).key not in {plan.key for plan in searched.run(6)}


def test_nothing_above_a_limit_is_ever_proposed(tmp_path):
    searched = Searched.make(tmp_path, PER_LAYER, limits={"param_overhead_percent": 0.9})
    overheads = [plan.overhead for plan in searched.run(9)]
    assert max(overheads) <= 0.9 and len(set(overheads)) >= 4


def test_a_conditional_space_gives_valid_sets_and_is_climbed(tmp_path):
    searched = Searched.make(tmp_path, PER_LAYER)
    searched.run(15)
    best = max(trial.values[0] for trial in searched.study.trials)
    assert best >= 1.0, "modulation of layer 1, in a space of thousands of plans"
    for trial in searched.study.trials:
        searched.space.config(trial.params)
        has_layers = "expansion.layers.0" in trial.params
        assert has_layers == (trial.params["expansion.policy"] == "per_layer")


@pytest.mark.parametrize(
    "objectives",
    [{"delta_m_percent": "maximize"}, {"delta_m_percent": "maximize", "step_cost_ratio": "minimize"}],
)
def test_one_objective_and_a_modelled_price_are_served(tmp_path, objectives):
    searched = Searched.make(tmp_path, objectives=objectives)
    assert len({plan.key for plan in searched.run(9)}) == 9
    assert max(trial.values[0] for trial in searched.study.trials) >= 2.0


def test_other_objectives_are_left_to_tpe(tmp_path):
    searched = Searched.make(tmp_path, objectives={"param_overhead_percent": "minimize"})
    assert isinstance(searched.study.sampler, type(build_sampler(searched.config, 0)))


def test_a_point_that_leaves_parameters_out_is_completed(tmp_path):
    searched = Searched.make(tmp_path)
    searched.study.enqueue_trial({"expansion.start": 0.5})
    trial = searched.ask()
    assert trial.params["expansion.start"] == 0.5 and len(trial.params) == 3
    assert PROPOSAL_ATTR not in trial.user_attrs


def test_a_paid_trunk_is_told_and_counted(tmp_path):
    searched = Searched.make(tmp_path)
    searched.run(3)
    sampler = searched.sampler()
    row = TrunkRow(
        fingerprint="t", trial=0, from_step=0, to_step=5, seconds=1.0, created_at=before_any_time()
    )
    searched.records.save_trunk("s", row)
    standing = sampler.standing(searched.study)
    late = {"expansion.start": 0.5, "expansion.layers.0": "modulate", "expansion.layers.1": "modulate"}
    early = {**late, "expansion.start": 0.0}
    costs = dict(zip(("late", "early"), standing.candidates([late, early]).costs[:, 0], strict=True))
    unpaid = sampler.standing(searched.study)
    unpaid._paid.clear()
    assert unpaid.candidates([late]).costs[0, 0] - costs["late"] == pytest.approx(5.0)
    assert costs["early"] > costs["late"]


def before_any_time():
    from datetime import UTC, datetime

    return datetime(2026, 1, 1, tzinfo=UTC)


def test_further_seeds_open_with_the_network_that_never_grows(tmp_path):
    searched = Searched.make(tmp_path, seeds=2)
    plans = searched.run(14)
    seeds = [plan.seed for plan in plans]
    second = seeds.index(1)
    assert second == 8 and not plans[second].grows
    assert len({(plan.key, plan.seed) for plan in plans}) == 14
    assert {plan.key for plan in plans if plan.seed == 1} & {plan.key for plan in plans if plan.seed == 0}
    assert "seed" in searched.study.trials[0].params


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"sampler": {"name": "tpe"}}, "seeds must be 1 unless sampler.name is plan"),
        ({"search": {**SMALL, "seed": {"choices": [0, 1]}}}, "seeds must be 1 while seed is searched"),
        ({"objectives": {"step_cost_ratio": "minimize"}}, "seeds must be 1 without delta_m_percent"),
    ],
)
def test_seeds_that_cannot_be_chosen_among_are_refused(tmp_path, fields, rule):
    from dtme_search.errors import ConfigError

    with pytest.raises(ConfigError, match=rule):
        Searched.make(tmp_path, seeds=2, **fields)


def test_a_proposal_takes_little_time_with_many_plans(tmp_path):
    """300 trials, 1,000 candidates: 50 ms on a quiet core; the bound leaves room for a busy one."""
    searched = Searched.make(tmp_path, PER_LAYER)
    rng = np.random.default_rng(0)
    sampler = searched.sampler()
    from dtme_search.search.study.standing import Entry, Standing

    plans = [sampler._resolver(sampler._pool._random(rng)) for _ in range(300)]
    entries = [Entry(plan, float(rng.standard_normal()), 1.5) for plan in plans]
    best = 9.0
    for _ in range(3):
        started = time.process_time()
        Standing(searched.config, searched.space, sampler._resolver, entries).propose(sampler._pool)
        best = min(best, time.process_time() - started)
    assert best < 0.25, f"{best * 1000:.0f} ms"


@pytest.mark.slow
def test_a_finished_study_equals_its_plans_trained_alone(tmp_path):
    import torch

    from dtme_search.data import build_data
    from dtme_search.models import build_model
    from dtme_search.training import Trainer

    changes = {"tasks": {"depth": {}, "edge": {}}, "train.num_steps": 4}
    file = write_tiny_study(
        tmp_path, changes, trials=6, sampler={"name": "plan"}, seeds=2, enqueue=["unexpanded"]
    )
    study = optimize(file, workdir=tmp_path / "runs", device="cpu")
    runs = study.records.runs("tiny")
    assert [run.state for run in runs] == ["complete"] * 6
    assert len({(run.resolved_fingerprint, run.seed) for run in runs}) == 6
    notes = [trial.user_attrs.get(PROPOSAL_ATTR, "") for trial in study.optuna.trials]
    assert notes[0] == "" and all(
        note.startswith("Proposed ") and "costs about" in note for note in notes[1:]
    )
    for run in runs[1::2]:
        config = RunConfig.model_validate_json(run.config)
        data = build_data(config.data, tuple(config.tasks), torch.device("cpu"))
        model = build_model(
            config.model, data.specs, data.image_size, seed=config.seed, output_means=data.target_means()
        )
        alone = Trainer(config, model, data).run().metrics
        last = [row for row in study.records.evaluations("tiny", run.trial) if row.step == run.total_steps]
        assert {row.task: row.value for row in last} == dict(alone)
    assert json.loads(runs[0].config)["seed"] == 0


def test_with_several_seeds_the_front_and_the_export_go_by_what_is_expected(tmp_path):
    from dtme_search.reporting import best_trial, front_table, trials_table
    from dtme_search.search import expectations, front_numbers

    changes = {"tasks": {"depth": {}, "edge": {}}, "train.num_steps": 4}
    points = [
        {**point, "seed": seed}
        for seed in (0, 1)
        for point in (
            {"expansion.policy": "none"},
            grown("none", "none", "expand"),
            grown("both", "none", "none"),
        )
    ]
    file = write_tiny_study(tmp_path, changes, trials=6, sampler={"name": "plan"}, seeds=2, enqueue=points)
    study = optimize(file, workdir=tmp_path / "runs", device="cpu")
    assert {row.seed for row in study.records.baselines()} == {0}, "all are judged by those of the first seed"
    expected = expectations(study)
    assert sorted(expected) == [0, 1, 2], "a plan counts once, under its first trial"
    assert all(each.deviation > 0 for each in expected.values())
    table = trials_table(study).set_index("trial")
    assert table["expected_delta_m"].dropna().to_dict() == {n: each.mean for n, each in expected.items()}
    assert front_numbers(study) <= {0, 1, 2} and 0 in front_numbers(study)
    best = max(expected, key=lambda number: expected[number].mean)
    assert best_trial(study) == best == front_table(study)["trial"].iloc[0]
    # Both seeds are in it: the mean of a plan lies between what its seeds showed, up to the model's caution.
    gains = table["delta_m_percent"]
    for number, each in expected.items():
        low, high = sorted([gains[number], gains[number + 3]])
        assert low - 3 * each.deviation <= each.mean <= high + 3 * each.deviation
