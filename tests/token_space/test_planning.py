"""From conflicts and a config to a plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dtme_search.config import ExpansionConfig, FixedPlan
from dtme_search.errors import ConfigError
from dtme_search.token_space import (
    ConflictReport,
    ExpansionPlan,
    merge_tasks,
    plan_expansion,
)

TASKS = ("semseg", "depth", "edge")
EACH = (("semseg",), ("depth",), ("edge",))


def report_of(range_percent: list[list[int]], null_percent: list[list[int]]) -> ConflictReport:
    """A report of one image of 100 tokens: per layer the percentage of each pair."""
    return ConflictReport(
        TASKS,
        variance_ratio=100.0,
        embed_dim=8,
        num_positions=100,
        range_dims=(2,) * len(range_percent),
        range_counts=torch.tensor([range_percent]),
        null_counts=torch.tensor([null_percent]),
    )


def flat(*percent: int) -> list[list[int]]:
    """Layers where all three pairs conflict equally."""
    return [[value] * 3 for value in percent]


def plan_of(
    report: ConflictReport | None, seed: int = 0, num_layers: int = 6, **fields: object
) -> ExpansionPlan:
    return plan_expansion(report, ExpansionConfig(**fields), TASKS, num_layers, seed)


@pytest.fixture
def report() -> ConflictReport:
    # Range: 2 > 0 > 4 = 5 > 1 > 3. Null: 5 > 3 > 1 > 0 > 2 > 4.
    return report_of(flat(50, 30, 60, 10, 40, 40), flat(25, 35, 15, 45, 5, 55))


def chosen(plan: ExpansionPlan) -> tuple[list[int], list[int]]:
    return sorted(plan.groups["modulate"]), sorted(plan.groups["expand"])


def test_most_conflicts_decide_each_operation_apart(report):
    plan = plan_of(report)
    assert chosen(plan) == ([0, 2, 4], [1, 3, 5])
    assert plan.groups["modulate"][0] == plan.groups["expand"][5] == EACH


def test_a_layer_may_get_both_or_neither(report):
    plan = plan_of(report, range_layer_ratio=4 / 6, null_layer_ratio=2 / 6)
    assert plan.operations() == ("modulate", "none", "modulate", "expand", "modulate", "both")


@pytest.mark.parametrize(
    ("ratio", "num_layers", "expected"),
    [
        (0.0, 12, 0),
        (0.01, 12, 1),
        (0.0833333, 12, 1),
        (0.0833334, 12, 1),
        (0.0833333 * 3, 12, 3),
        (0.0833333 * 9, 12, 9),
        (0.1 + 0.2, 10, 3),
        (0.7 - 0.1, 10, 6),
        (1.1 / 2, 20, 11),
        (0.666667, 12, 8),
        (0.25, 6, 2),
        (0.26, 12, 4),
        (1.0, 24, 24),
    ],
)
def test_ratios_are_read_as_the_decimal_typed(ratio, num_layers, expected):
    report = report_of(flat(*[50] * num_layers), flat(*[50] * num_layers))
    plan = plan_of(report, num_layers=num_layers, range_layer_ratio=ratio, null_layer_ratio=0.0)
    assert sorted(plan.groups["modulate"]) == list(range(expected))


def test_layers_below_the_threshold_stay_as_they_are(report):
    plan = plan_of(
        report, range_layer_ratio=1.0, null_layer_ratio=0.5, range_threshold=0.4, null_threshold=0.4
    )
    assert chosen(plan) == ([0, 2, 4, 5], [3, 5])


def test_threshold_never_adds_layers(report):
    assert chosen(plan_of(report, range_threshold=0.01)) == chosen(plan_of(report))


def test_reversed_takes_the_fewest_conflicts(report):
    assert chosen(plan_of(report, selection="reversed")) == ([1, 3, 4], [0, 2, 4])


def test_swapped_exchanges_the_subspaces(report):
    plan = plan_of(report, selection="swapped", range_layer_ratio=2 / 6, null_layer_ratio=1 / 6)
    assert chosen(plan) == ([3, 5], [2])


def test_random_depends_on_the_seed_alone():
    num_layers = 12
    report = report_of(flat(*range(10, 22)), flat(*range(30, 42)))
    other = report_of(flat(*range(33, 21, -1)), flat(*range(52, 40, -1)))
    plans = [plan_of(report, seed, num_layers, selection="random") for seed in range(8)]
    assert plans[3] == plan_of(report, 3, num_layers, selection="random")
    assert plans[3] == plan_of(other, 3, num_layers, selection="random")
    assert len({plan.fingerprint for plan in plans}) == 8
    assert all((len(plan.groups["modulate"]), len(plan.groups["expand"])) == (6, 6) for plan in plans)
    assert any(set(plan.groups["modulate"]) != set(plan.groups["expand"]) for plan in plans)


@pytest.mark.parametrize("selection", ["random", "reversed", "swapped"])
def test_controls_expand_as_many_layers_as_conflicts_would(report, selection):
    fields = {"range_layer_ratio": 1.0, "range_threshold": 0.45, "null_threshold": 0.5}
    plan = plan_of(report, selection=selection, **fields)
    assert (len(plan.groups["modulate"]), len(plan.groups["expand"])) == (2, 1)


def test_tasks_below_the_pair_threshold_keep_the_shared_stream():
    # Pairs: semseg-depth, semseg-edge, depth-edge.
    report = report_of([[50, 20, 30], [20, 20, 20]], [[10, 10, 60], [0, 60, 0]])
    plan = plan_of(report, num_layers=2, range_layer_ratio=1.0, null_layer_ratio=1.0, pair_threshold=0.35)
    assert plan.groups["modulate"] == {0: (("semseg",), ("depth",))}
    assert plan.groups["expand"] == {0: (("depth",), ("edge",)), 1: (("semseg",), ("edge",))}
    assert plan.streams(0) == EACH


def test_a_task_at_the_pair_threshold_is_active():
    report = report_of([[40, 10, 10]], [[0, 0, 0]])
    plan = plan_of(report, num_layers=1, pair_threshold=0.4)
    assert plan.groups["modulate"] == {0: (("semseg",), ("depth",))}
    assert not plan.groups["expand"]


def test_merging_by_hand():
    #     a    b    c    d          a+b first (0.10). Then the mean between {a, b} and c is 0.40, between
    # a   -  .10  .20  .50          {a, b} and d 0.55, and c-d is 0.45: c joins {a, b}, though c-d is below
    # b .10    -  .60  .60          b-c. Single or complete linkage would decide alike or otherwise.
    # c .20  .60    -  .45
    # d .50  .60  .45    -
    pairs = [[0, 0.1, 0.2, 0.5], [0.1, 0, 0.6, 0.6], [0.2, 0.6, 0, 0.45], [0.5, 0.6, 0.45, 0]]
    conflicts = torch.tensor(pairs)
    assert merge_tasks(conflicts, "abcd", 4) == (("a",), ("b",), ("c",), ("d",))
    assert merge_tasks(conflicts, "abcd", 3) == (("a", "b"), ("c",), ("d",))
    assert merge_tasks(conflicts, "abcd", 2) == (("a", "b", "c"), ("d",))
    assert merge_tasks(conflicts, "abcd", 1) == (("a", "b", "c", "d"),)


def test_merging_breaks_ties_by_the_order_of_the_tasks():
    assert merge_tasks(torch.full((3, 3), 0.5), TASKS, 2) == (("semseg", "depth"), ("edge",))


def test_max_streams_averages_over_the_layers_that_grow():
    # Layer 0 is modulated (semseg-edge agree there), layer 1 expanded (depth-edge agree): means 40, 35, 30.
    report = report_of([[40, 20, 60], [0, 0, 0]], [[0, 0, 0], [40, 50, 0]])
    plan = plan_of(report, num_layers=2, max_streams=2)
    groups = (("semseg",), ("depth", "edge"))
    assert (plan.groups["modulate"], plan.groups["expand"]) == ({0: groups}, {1: groups})
    assert [plan.num_streams(layer) for layer in range(2)] == [2, 2]


def test_one_stream_is_one_group_of_all_tasks(report):
    plan = plan_of(report, max_streams=1)
    assert set(plan.groups["modulate"].values()) == {(TASKS,)}
    assert plan.num_streams(5) == 1


def test_enough_streams_change_nothing(report):
    assert plan_of(report, max_streams=3) == plan_of(report)


def test_merged_groups_hold_active_tasks_only():
    report = report_of([[50, 10, 20]], [[0, 0, 0]])
    plan = plan_of(report, num_layers=1, null_layer_ratio=0.0, max_streams=2, pair_threshold=0.3)
    assert plan.groups["modulate"] == {0: (("semseg",), ("depth",))}


def test_layers_where_no_task_is_active_do_not_count_in_the_mean():
    # Layer 1 grows for nobody; with it semseg-depth would have the lowest mean.
    report = report_of([[60, 50, 60], [0, 29, 29]], [[0, 0, 0], [0, 0, 0]])
    fields = {"range_layer_ratio": 1.0, "null_layer_ratio": 0.0, "max_streams": 2, "pair_threshold": 0.3}
    plan = plan_of(report, num_layers=2, **fields)
    assert plan.groups["modulate"] == {0: (("semseg", "edge"), ("depth",))}


def test_explicit_choices_need_no_report():
    choices = ("none", "modulate", "expand", "both", "none", "none")
    plan = plan_of(None, policy="per_layer", layers=choices)
    assert plan.operations() == choices
    assert plan.groups["modulate"][1] == EACH


def test_explicit_choices_override_and_auto_follows_the_conflicts(report):
    choices = ("none", "auto", "auto", "both", "auto", "modulate")
    plan = plan_of(report, policy="per_layer", layers=choices)
    # By conflicts alone: modulate 0, 2, 4 and expand 1, 3, 5.
    assert plan.operations() == ("none", "expand", "modulate", "both", "modulate", "modulate")


def test_all_auto_is_policy_conflict(report):
    assert plan_of(report, policy="per_layer", layers=("auto",) * 6) == plan_of(report)


@pytest.mark.parametrize("length", [1, 5, 7])
def test_choices_must_fit_the_layers(report, length):
    with pytest.raises(ConfigError, match=rf"^expansion\.layers must .* 6 layers, got {length}\. "):
        plan_of(report, policy="per_layer", layers=("none",) * length)


def test_explicit_choices_are_merged_by_conflicts():
    report = report_of([[40, 20, 60], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]])
    plan = plan_of(report, num_layers=2, policy="per_layer", layers=("modulate", "none"), max_streams=2)
    assert plan.groups["modulate"] == {0: (("semseg", "edge"), ("depth",))}


def test_policy_none_and_fixed():
    assert plan_of(None, policy="none") == ExpansionPlan.empty(TASKS, 6)
    fixed = FixedPlan(modulate={5: (("semseg",), ("depth", "edge"))})
    plan = plan_of(None, policy="fixed", plan=fixed, num_task_tokens=3)
    assert plan == ExpansionPlan(
        TASKS, 6, {"modulate": {5: (("semseg",), ("depth", "edge"))}}, {"num_task_tokens": 3}
    )
    assert plan_of(None, policy="fixed", plan=plan.to_config(), num_task_tokens=3) == plan


def test_a_fixed_plan_must_fit_the_model():
    with pytest.raises(ConfigError, match=r"^expansion\.plan: modulate must name layers from 0 to 5, got 6"):
        plan_of(None, policy="fixed", plan=FixedPlan(modulate={6: (("depth",),)}))


def test_task_tokens_come_from_the_config(report):
    assert plan_of(report, num_task_tokens=4).options == {"num_task_tokens": 4}


class TestByGradientSimilarity:
    """Pairs in the order semseg-depth, semseg-edge, depth-edge."""

    COSINES = (
        (0.9, 0.6, 0.0),  # unlike by 0.1 + 0.4 + 1.0 = 1.5
        (0.2, 0.1, -0.6),  # 3.3
        (1.0, 0.9, 0.8),  # 0.3
        (-0.5, 0.7, 0.0),  # 2.8
        (0.5, 0.5, 0.5),  # 1.5, as layer 0
        (0.9, 0.8, 0.9),  # 0.4
    )

    @pytest.fixture
    def compared(self, report):
        return replace(report, cosines=torch.tensor(self.COSINES, dtype=torch.float64))

    def test_the_least_similar_layers_grow_as_many_as_by_conflicts(self, compared):
        plan = plan_of(compared, selection="gradient_similarity")
        assert chosen(plan) == ([0, 1, 3], [0, 1, 3]), "1, 3, then of 0 and 4 the lower"
        few = plan_of(compared, selection="gradient_similarity", range_threshold=0.45, null_layer_ratio=0.3)
        assert chosen(few) == ([1, 3], [1, 3]), "two range rates reach 45 percent, 0.3 of six layers are two"
        assert plan_of(compared) == plan_of(replace(compared, cosines=None)), "by conflicts they do not count"

    def test_tasks_with_similar_gradients_share_a_group(self, compared):
        """Layers 1 and 3 of both operations: semseg-depth unlike by (0.8 + 1.5) / 2 = 1.15, semseg-edge by
        (0.9 + 0.3) / 2 = 0.6, depth-edge by (1.6 + 1.0) / 2 = 1.3."""
        plan = plan_of(
            compared,
            selection="gradient_similarity",
            range_layer_ratio=0.3,
            null_layer_ratio=0.3,
            max_streams=2,
        )
        assert plan.groups["modulate"][1] == plan.groups["expand"][3] == (("semseg", "edge"), ("depth",))

    def test_other_operations_and_auto_layers_follow(self, compared):
        layers = ("auto", "lora", "auto", "auto", "none", "auto")
        plan = plan_of(
            compared,
            policy="per_layer",
            layers=layers,
            selection="gradient_similarity",
            range_operation="lora",
            null_layer_ratio=0.0,
        )
        assert plan.operations() == ("lora", "lora", "none", "lora", "none", "none")

    def test_gains_rank_each_operation_apart_by_how_sure_they_are(self, report):
        z = [[0.1, 5.0, -1.0, 4.0, 3.0, 0.0], [9.0, 0.0, 8.0, 0.0, 7.0, 0.0]]
        rated = replace(
            report, gains=torch.tensor([[[1.0] * 6] * 2, [[1.0] * 6] * 2, z], dtype=torch.float64)
        )
        assert chosen(plan_of(rated, selection="gain")) == ([1, 3, 4], [0, 2, 4])
        fewer = plan_of(rated, selection="gain", range_layer_ratio=0.3, null_layer_ratio=0.0)
        assert chosen(fewer) == ([1, 3], [])
        with pytest.raises(ConfigError, match="needs at least 3 images"):
            plan_of(report, selection="gain")

    def test_they_are_written_and_must_be_measured_and_fit(self, compared, report):
        assert ConflictReport.from_json(compared.to_json()) == compared != report
        assert "+0.500" in compared.table() and "cosine" not in report.table()
        with pytest.raises(ValueError, match="cosines must be measured"):
            plan_of(report, selection="gradient_similarity")
        with pytest.raises(ValueError, match=r"cosines must have shape \(6, 3\)"):
            replace(report, cosines=torch.zeros(6, 2))


def test_a_single_task_has_a_plan():
    report = ConflictReport(
        ("depth",), 100.0, 8, 10, (2,) * 4, torch.zeros(3, 4, 0).long(), torch.zeros(3, 4, 0).long()
    )
    for max_streams in (None, 1, 3):
        config = ExpansionConfig(max_streams=max_streams)
        plan = plan_expansion(report, config, ["depth"], 4, 0)
        assert plan.groups["modulate"] == {0: (("depth",),), 1: (("depth",),)}
    assert plan_expansion(report, ExpansionConfig(pair_threshold=0.1), ["depth"], 4, 0).is_empty


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"policy": "none"}, False),
        ({"policy": "conflict"}, True),
        ({"policy": "per_layer", "layers": ("none", "both")}, False),
        ({"policy": "per_layer", "layers": ("none", "auto")}, True),
        ({"policy": "per_layer", "layers": ("none", "both"), "max_streams": 2}, True),
        ({"policy": "per_layer", "layers": ("none", "both"), "pair_threshold": 0.1}, True),
        ({"policy": "fixed", "plan": FixedPlan(expand={0: (("depth",),)}), "max_streams": 1}, False),
    ],
)
def test_what_needs_conflicts(fields, expected):
    assert ExpansionConfig(**fields).needs_conflicts is expected
    if expected:
        with pytest.raises(ValueError, match="needs_conflicts"):
            plan_of(None, num_layers=2, **fields)
    else:
        plan_of(None, num_layers=2, **fields)


def test_a_report_of_something_else_is_refused(report):
    with pytest.raises(ValueError, match="and 12 layers"):
        plan_of(report, num_layers=12)
    with pytest.raises(ValueError, match="must be of tasks"):
        plan_expansion(report, ExpansionConfig(), ["depth", "semseg", "edge"], 6, 0)
