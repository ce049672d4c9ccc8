"""Pruning by dominance: ranks by hand, what it must never do, and a study in which it stops a trial."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import SEARCH, grown, write_tiny_study
from watching import Heard

from dtme_search.config import StudyConfig
from dtme_search.reporting import pruned_table
from dtme_search.search import load_study, optimize
from dtme_search.search.storage.rows import RungRow, RunRow
from dtme_search.search.trial.pruning import (
    ParetoPruner,
    dominance_ranks,
    rank_correlation,
    stays,
    violations,
)

OBJECTIVES = {"delta_m_percent": "maximize", "param_overhead_percent": "minimize"}


def rows(*numbers: tuple[float, float | None], rung: int = 1) -> list[RungRow]:
    """Trials 0, 1, ... with their delta_m and overhead."""
    return [
        RungRow(trial=trial, rung=rung, step=30, delta_m_percent=gain, param_overhead_percent=overhead)
        for trial, (gain, overhead) in enumerate(numbers)
    ]


def pruner(**changes) -> ParetoPruner:
    given = {"objectives": OBJECTIVES, "limits": {}, "eta": 3.0, "min_trials": 2, "first_rung": 1}
    return ParetoPruner(**given | {"num_evaluations": 4, "min_correlation": -1.0} | changes)


def stopped(ranking: ParetoPruner, trials: list[RungRow]) -> list[int]:
    return [row.trial for row in trials if ranking.reason(row.trial, trials) is not None]


#   delta_m
#     2 |          0
#     1 |  1    2     3
#     0 |          4
#    -1 |     5         6
#         .0 .1 .2 .3 .4 .5   overhead
SEVEN = rows((2.0, 0.3), (1.0, 0.0), (1.0, 0.2), (1.0, 0.4), (0.0, 0.3), (-1.0, 0.1), (-1.0, 0.5))


class TestRanks:
    def test_by_hand(self):
        losses = torch.tensor([(-row.delta_m_percent, row.param_overhead_percent) for row in SEVEN])
        # 2: by 1. 3: by 0, 1, 2. 4: by 0, 1, 2. 5: by 1. 6: by all.
        assert dominance_ranks(losses, torch.zeros(7)).tolist() == [0, 0, 1, 3, 3, 1, 6]

    def test_equal_points_do_not_dominate_each_other(self):
        assert dominance_ranks(torch.tensor([[1.0, 2.0]] * 3), torch.zeros(3)).tolist() == [0, 0, 0]

    def test_who_keeps_the_limits_dominates_who_does_not(self):
        losses = torch.tensor([[0.0, 0.0], [9.0, 9.0], [-5.0, -5.0], [8.0, 8.0]])
        assert dominance_ranks(losses, torch.tensor([0.0, 0.0, 2.0, 1.0])).tolist() == [0, 1, 3, 2]

    @given(
        st.integers(1, 3).flatmap(
            lambda count: st.lists(st.tuples(*[st.integers(0, 4)] * (count + 1)), min_size=1)
        )
    )
    def test_it_counts_the_pairs_that_the_definition_names(self, points):
        def dominates(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
            (violation, *losses), (their_violation, *theirs) = one, other
            if violation or their_violation:
                return violation < their_violation
            return losses != theirs and all(a <= b for a, b in zip(losses, theirs, strict=True))

        columns = torch.tensor(points, dtype=torch.float64)
        ranks = dominance_ranks(columns[:, 1:], columns[:, 0])
        assert ranks.tolist() == [sum(dominates(other, point) for other in points) for point in points]

    @pytest.mark.parametrize(
        ("eta", "expected"),
        [(7.0, [0, 1]), (3.0, [0, 1, 2, 5]), (2.0, [0, 1, 2, 5]), (1.5, [0, 1, 2, 3, 4, 5])],
    )
    def test_equal_ranks_stay_together_while_there_is_room_for_the_first_of_them(self, eta, expected):
        assert stays(torch.tensor([0, 0, 1, 3, 3, 1, 6]), eta).nonzero().flatten().tolist() == expected


class TestWhoIsPruned:
    def test_by_hand(self):
        assert stopped(pruner(), SEVEN) == [3, 4, 6]
        assert stopped(pruner(eta=7.0), SEVEN) == [2, 3, 4, 5, 6]

    def test_the_reason_names_share_place_and_numbers(self):
        assert pruner().reason(3, SEVEN) == (
            "outside the best third at evaluation 2 of 4: delta_m +1.00 %, overhead 0.400 %; "
            "3 of 7 trials dominate it"
        )
        assert pruner(eta=7.0).reason(3, SEVEN).startswith("outside the best 14 % at")

    def test_a_minimum_number_first(self):
        assert stopped(pruner(min_trials=7), SEVEN) == [3, 4, 6]
        assert stopped(pruner(min_trials=8), SEVEN) == []

    @pytest.mark.parametrize(("rung", "expected"), [(0, []), (1, [3, 4, 6]), (2, [3, 4, 6]), (3, [])])
    def test_neither_before_the_first_rung_nor_at_the_last(self, rung, expected):
        numbers = [(row.delta_m_percent, row.param_overhead_percent) for row in SEVEN]
        assert stopped(pruner(), rows(*numbers, rung=rung)) == expected

    def test_who_has_not_grown_is_neither_judged_nor_counted(self):
        trials = [*SEVEN, RungRow(trial=7, rung=1, step=30, delta_m_percent=-9.0)]
        assert stopped(pruner(min_trials=7), trials) == [3, 4, 6]
        assert stopped(pruner(min_trials=8), trials) == []

    def test_a_trial_above_a_limit_goes_behind_all_others(self):
        limited = pruner(limits={"param_overhead_percent": 0.25})
        assert stopped(limited, SEVEN) == [0, 3, 4, 6]
        assert "overhead above the limit of 0.25; 3 of 7" in limited.reason(0, SEVEN)

    def test_any_measures_in_any_direction(self):
        trials = [
            RungRow(trial=trial, rung=1, step=30, delta_m_percent=gain, step_cost_ratio=cost)
            for trial, (gain, cost) in enumerate([(1.0, 1.0), (0.5, 1.5), (0.0, 2.0)])
        ]
        by_cost = pruner(objectives={"step_cost_ratio": "minimize", "delta_m_percent": "maximize"})
        assert stopped(by_cost, trials) == [1, 2]
        assert "step cost 2.00, delta_m +0.00 %; 2 of 3" in by_cost.reason(2, trials)
        assert stopped(pruner(), trials) == [], "overhead is not known"

    @pytest.mark.parametrize("trials", [SEVEN, [], [*rows((0.0, 0.0), rung=0), *SEVEN]])
    def test_rows_must_hold_the_trial_and_one_rung(self, trials):
        with pytest.raises(ValueError, match="rows must hold trial 9 and one rung, got the rungs"):
            pruner().reason(9, trials)

    def test_a_study_says_how(self):
        study = StudyConfig.model_validate(
            {
                "name": "s",
                "config": {},
                "search": {"train.lr": {"choices": [1e-3]}},
                "limits": {"param_overhead_percent": 1.0},
                "pruner": {"name": "pareto", "eta": 4, "min_trials": 5, "num_warmup_evaluations": 2},
            }
        )
        expected = pruner(
            limits={"param_overhead_percent": 1.0},
            eta=4.0,
            min_trials=5,
            first_rung=2,
            num_evaluations=8,
            min_correlation=0.7,
        )
        assert ParetoPruner.of_study(study, 8) == expected


class TestARungMustHaveShownThatItCanTell:
    """SEVEN at rung 1; what became of some of them at the last rung."""

    def stopped(self, ends: dict[int, float], **changes) -> list[int]:
        finished = [
            RungRow(trial=trial, rung=3, step=60, delta_m_percent=gain) for trial, gain in ends.items()
        ]
        ranking = pruner(**{"min_correlation": 0.7, "min_trials": 4} | changes)
        return [row.trial for row in SEVEN if ranking.reason(row.trial, SEVEN, finished) is not None]

    # At rung 1 the trials 0, 1, 4 and 5 had 2, 1, 0 and -1.
    def test_it_prunes_when_the_order_held(self):
        assert self.stopped({0: 9.0, 1: 8.0, 4: 5.0, 5: 7.0}) == [3, 4, 6], "rank correlation 0.8"

    def test_not_when_it_did_not(self):
        assert self.stopped({0: 8.0, 1: 9.0, 4: 5.0, 5: 7.0}) == [], "rank correlation 0.6"
        assert self.stopped({0: 8.0, 1: 9.0, 4: 5.0, 5: 7.0}, min_correlation=0.5) == [3, 4, 6]
        assert self.stopped({0: 1.0, 1: 2.0, 4: 3.0, 5: 4.0}) == []
        assert self.stopped({0: 1.0, 1: 1.0, 4: 1.0, 5: 1.0}) == []

    def test_not_before_enough_trials_have_finished(self):
        assert self.stopped({0: 9.0, 1: 8.0, 4: 7.0}) == []
        assert self.stopped({0: 9.0, 1: 8.0, 4: 7.0, 99: 5.0}) == [], "one of them was not here"

    def test_unless_every_rung_is_trusted(self):
        assert self.stopped({}, min_correlation=-1) == [3, 4, 6]

    def test_equal_values_share_their_ranks(self):
        # Ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4.
        expected = 4.5 / (4.5 * 5.0) ** 0.5
        assert rank_correlation([0.0, 1.0, 1.0, 2.0], [0.0, 6.0, 5.0, 9.0]) == pytest.approx(expected)


numbers = st.tuples(st.integers(-4, 4).map(float), st.integers(0, 4).map(float))
trials = st.lists(numbers, min_size=1, max_size=30).map(lambda values: rows(*values))
etas = st.floats(1.01, 50.0)
limits = st.sampled_from([{}, {"param_overhead_percent": 2.0}])


def dominates(first: RungRow, second: RungRow) -> bool:
    gains, costs = zip(
        *((row.delta_m_percent, row.param_overhead_percent) for row in (first, second)), strict=True
    )
    return gains[0] >= gains[1] and costs[0] <= costs[1] and (gains, costs) != (gains[::-1], costs[::-1])


@given(trials, etas)
def test_it_never_prunes_a_member_of_the_front(trials, eta):
    ranking = pruner(eta=eta)
    front = {row.trial for row in trials if not any(dominates(other, row) for other in trials)}
    assert front and not front & set(stopped(ranking, trials))


@given(trials, etas, limits)
def test_who_dominates_a_trial_that_stays_stays(trials, eta, limits):
    gone = set(stopped(pruner(eta=eta, limits=limits), trials))
    keeps = [row for row in trials if not limits or violations(row, limits)["param_overhead_percent"] <= 0]
    for row in keeps:
        if row.trial in gone:
            assert all(other.trial in gone for other in trials if dominates(row, other))


@given(trials, etas, st.integers(2, 40))
def test_it_never_prunes_below_the_minimum_number(trials, eta, least):
    gone = stopped(pruner(eta=eta, min_trials=least), trials)
    assert len(trials) >= least or not gone


@given(trials, etas, limits, st.randoms(use_true_random=False))
def test_it_keeps_its_share_whatever_the_order(trials, eta, limits, random):
    gone = set(stopped(pruner(eta=eta, limits=limits), trials))
    assert len(trials) == 1 or len(trials) - len(gone) >= len(trials) / eta
    shuffled = random.sample(trials, len(trials))
    assert set(stopped(pruner(eta=eta, limits=limits), shuffled)) == gone


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="module")
def study(tmp_path_factory, heard):
    """The second trial learns nothing sensible; the fourth equals it; the fifth is the sampler's."""
    folder = tmp_path_factory.mktemp("pruned")
    everywhere = grown("both", "both", "both", start=0.0)
    file = write_tiny_study(
        folder,
        {"tasks": {"depth": {}, "edge": {}}},
        trials=5,
        limits={"param_overhead_percent": 0.5},
        search=SEARCH
        | {"train.lr": {"choices": [1e-3, 10.0]}, "expansion.variance_ratio": {"choices": [10.0, 100.0]}},
        baselines={"recipe": "base"},
        sampler={"num_startup_trials": 2},
        pruner={
            "name": "pareto",
            "num_warmup_evaluations": 0,
            "min_trials": 2,
            "min_correlation": -1,
            "eta": 3,
        },
        enqueue=[
            {"expansion.policy": "none", "train.lr": 1e-3, "expansion.variance_ratio": 10.0},
            {"train.lr": 10.0, "expansion.variance_ratio": 10.0, **everywhere},
            {"train.lr": 10.0, "expansion.variance_ratio": 10.0, **everywhere, "expansion.start": 0.5},
            {"train.lr": 10.0, "expansion.variance_ratio": 100.0, **everywhere},
        ],
    )
    return optimize(file, workdir=folder / "runs", device="cpu", listener=heard)


class TestInAStudy:
    def test_the_dominated_trial_stops_and_everyone_hears_why(self, study, heard):
        trial, run = study.optuna.trials[1], study.records.runs("tiny")[1]
        assert trial.state.name == "PRUNED" and run.state == "pruned" and run.error is None
        row = study.records.rung("tiny", 0)[1]
        assert run.reason == (
            f"outside the best third at evaluation 1 of 2: delta_m {row.delta_m_percent:+.2f} %, overhead "
            f"{row.param_overhead_percent:.3f} %, overhead above the limit of 0.5; 1 of 2 trials dominate it"
        )
        assert trial.user_attrs["pruned"] == run.reason
        assert (1, "pruned", run.reason) in heard.stopped
        assert run.steps_trained == 5 and run.operations == "both both both"
        assert run.param_overhead_percent == row.param_overhead_percent

    def test_a_trial_that_has_not_grown_is_left_alone(self, study):
        trial = study.optuna.trials[2]
        first, last = study.records.rungs("tiny", 2)
        assert trial.state.name == "COMPLETE" and trial.values[1] == last.param_overhead_percent > 0
        assert first.param_overhead_percent is None and first.step_cost_ratio is None
        assert first.delta_m_percent < study.records.rung("tiny", 0)[0].delta_m_percent

    def test_equal_work_takes_the_reason_over(self, study):
        first, trial, run = study.optuna.trials[1], study.optuna.trials[3], study.records.runs("tiny")[3]
        assert run.state == "pruned" and run.origin_trial == 1 and run.steps_trained == 0
        assert run.reason == f"trains the same as trial 1, which was pruned: {first.user_attrs['pruned']}"
        assert trial.user_attrs["pruned"] == run.reason and trial.constraints == first.constraints
        assert pruned_table(study)["reason"].tolist()[:2] == [first.user_attrs["pruned"], run.reason]
        assert 3 not in [row.trial for row in study.records.competitors("tiny", 0)]

    def test_the_last_rung_is_the_result(self, study):
        for trial in study.optuna.get_trials(deepcopy=False):
            run = study.records.runs("tiny")[trial.number]
            if trial.values is None or run.origin_trial is not None:
                continue
            row = study.records.rungs("tiny", trial.number)[-1]
            assert trial.values == [row.delta_m_percent, row.param_overhead_percent]
            assert (row.step, row.step_cost_ratio) == (10, run.step_cost_ratio)

    def test_optuna_keeps_constraints_and_no_intermediate_values(self, study):
        """With one intermediate value TPE, which proposed the fifth trial, would have died."""
        known = study.optuna.get_trials(deepcopy=False)
        assert len(known) == 5 and not any(trial.intermediate_values for trial in known)
        overhead = study.records.runs("tiny")[1].param_overhead_percent
        assert known[1].constraints["param_overhead_percent"] == pytest.approx(overhead - 0.5)
        assert known[0].constraints["param_overhead_percent"] == -0.5

    def test_failed_and_equal_work_does_not_compete(self, study):
        records, name = study.records, "another"
        for trial, (state, origin) in enumerate(
            [("complete", None), ("failed", None), ("complete", 0), ("pruned", None), ("running", None)]
        ):
            records.save_run(
                RunRow(study=name, trial=trial, state=state, fingerprint="f", origin_trial=origin)
            )
            records.save_rung(name, RungRow(trial=trial, rung=0, step=5, delta_m_percent=1.0))
        assert [row.trial for row in records.competitors(name, 0)] == [0, 3, 4]
        assert records.competitors(name, 1) == []

    def test_it_opens_again(self, study, tmp_path):
        again = load_study("tiny", storage=str(study.records.engine.url))
        assert again.config.pruner.name == "pareto" and len(again.optuna.trials) == 5
