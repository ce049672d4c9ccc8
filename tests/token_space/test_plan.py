"""Expansion plans: streams, parameter counts, forms."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtme_search.config import ExpansionConfig, FixedPlan
from dtme_search.errors import ConfigError
from dtme_search.token_space import ExpansionPlan

TASKS = ("semseg", "depth", "normals", "edge")


def singletons(tasks=TASKS):
    return tuple((task,) for task in tasks)


@pytest.fixture
def mixed() -> ExpansionPlan:
    return ExpansionPlan(
        TASKS,
        6,
        {
            "modulate": {1: (("edge", "semseg"), ("depth",)), 4: singletons()},
            "expand": {3: (("normals",),), 1: (("semseg",),)},
        },
        {"num_task_tokens": 2},
    )


@pytest.mark.parametrize(
    ("num_tasks", "num_layers", "num_expanded", "embed_dim", "backbone", "parameters", "percent"),
    [
        # NYUD, ViT-T at 448x576, TM and TE on 6 of 12 layers: 13,824 of 5,680,320 parameters.
        (4, 12, 6, 192, 5_680_320, 13_824, 0.243),
        # PASCAL-Context, ViT-T at 512x512, five tasks: 18 p each.
        (5, 12, 6, 192, 5_683_392, 17_280, 0.304),
        # Taskonomy, ViT-L with about 303 million parameters: 24 p per task, so TM and TE on 8 of 24 layers.
        (11, 24, 8, 1024, 303_000_000, 270_336, 0.089),
    ],
)
def test_published_parameter_counts(
    num_tasks, num_layers, num_expanded, embed_dim, backbone, parameters, percent
):
    tasks = tuple(f"task{index}" for index in range(num_tasks))
    layers = dict.fromkeys(range(num_expanded), singletons(tasks))
    plan = ExpansionPlan(tasks, num_layers, {"modulate": layers, "expand": layers})
    assert plan.num_parameters(embed_dim) == parameters
    assert plan.overhead_percent(embed_dim, backbone) == pytest.approx(percent, abs=0.0006)


def test_groups_share_parameters(mixed):
    # TM groups: 2 + 4, 2p each; TE groups: 1 + 1, 2 tokens of p each.
    assert mixed.num_parameters(10) == 6 * 20 + 2 * 20
    assert mixed.overhead_percent(10, 1600) == 10.0


def test_streams_split_where_operations_differ(mixed):
    assert mixed.streams(0) == (TASKS,)
    assert mixed.streams(1) == (("semseg",), ("depth",), ("normals",), ("edge",))
    assert mixed.num_streams(5) == 4


def test_tasks_without_a_group_share_the_untouched_stream():
    plan = ExpansionPlan(TASKS, 3, {"modulate": {1: (("depth",), ("edge", "semseg"))}})
    assert plan.streams(0) == (TASKS,)
    assert plan.streams(1) == (("semseg", "edge"), ("depth",), ("normals",))
    assert plan.streams(2) == plan.streams(1)


def test_task_tokens_split_the_streams_for_good():
    plan = ExpansionPlan(TASKS, 3, {"expand": {0: (("depth",),), 2: (("semseg", "depth"),)}})
    assert plan.streams(0) == (("semseg", "normals", "edge"), ("depth",))
    # Depth has other patch tokens by now, so sharing task tokens does not join it to semseg.
    assert plan.streams(2) == (("semseg",), ("depth",), ("normals", "edge"))


def test_one_group_of_all_tasks_keeps_one_stream():
    plan = ExpansionPlan(TASKS, 2, {"modulate": {0: (TASKS,)}, "expand": {1: (TASKS,)}})
    assert [plan.num_streams(layer) for layer in range(2)] == [1, 1]


def test_streams_of_some_tasks(mixed):
    assert mixed.streams(0, ["edge", "depth"]) == (("depth", "edge"),)
    assert mixed.streams(1, ["edge", "depth"]) == (("depth",), ("edge",))
    assert mixed.streams(5, ["edge"]) == (("edge",),)


@st.composite
def groupings(draw):
    labels = draw(st.lists(st.integers(0, 3), min_size=4, max_size=4))
    return tuple(
        tuple(task for task, label in zip(TASKS, labels, strict=True) if label == number)
        for number in range(1, 4)
        if number in labels
    )


@settings(deadline=None, max_examples=50)
@given(
    modulate=st.dictionaries(st.integers(0, 4), groupings(), max_size=5),
    expand=st.dictionaries(st.integers(0, 4), groupings(), max_size=5),
    running=st.sets(st.sampled_from(TASKS), min_size=1),
)
def test_streams_are_partitions_that_only_get_finer(modulate, expand, running):
    plan = ExpansionPlan(TASKS, 5, {"modulate": modulate, "expand": expand})
    before = (TASKS,)
    for layer in range(5):
        streams = plan.streams(layer)
        assert sorted(task for stream in streams for task in stream) == sorted(TASKS)
        for stream in streams:
            assert any(set(stream) <= set(parent) for parent in before)
            for groups in (plan.groups["modulate"].get(layer, ()), plan.groups["expand"].get(layer, ())):
                # A stream has one operation: it lies in one group, or outside of all.
                assert all(set(stream) <= set(group) or not set(stream) & set(group) for group in groups)
        some = plan.streams(layer, sorted(running))
        kept = [tuple(task for task in stream if task in running) for stream in streams]
        assert list(some) == sorted(filter(None, kept), key=lambda stream: TASKS.index(stream[0]))
        before = streams
    assert ExpansionPlan.from_json(plan.to_json()) == plan


def test_operations_and_first_layer(mixed):
    assert mixed.operations() == ("none", "both", "none", "expand", "modulate", "none")
    assert (mixed.first_layer, mixed.is_empty) == (1, False)


def test_empty_plan():
    plan = ExpansionPlan.empty(TASKS, 3)
    assert plan.is_empty
    assert plan.first_layer is None
    assert plan.num_parameters(192) == 0
    assert plan.streams(2) == (TASKS,)
    assert plan == ExpansionPlan(TASKS, 3, {"modulate": {0: ()}, "expand": {2: ()}})


def test_the_order_of_groups_does_not_matter():
    plan = ExpansionPlan(TASKS, 3, {"modulate": {2: (("edge",), ("normals", "depth"))}})
    same = ExpansionPlan(TASKS, 3, {"modulate": {2: (("depth", "normals"), ("edge",))}})
    assert plan == same
    assert plan.fingerprint == same.fingerprint
    assert plan.groups["modulate"][2] == (("depth", "normals"), ("edge",))


def test_fingerprint_tells_plans_apart_that_train_differently(mixed):
    modulating = ExpansionPlan(TASKS, 6, {"modulate": {1: singletons()}})
    more_tokens = ExpansionPlan(TASKS, 6, {"modulate": {1: singletons()}}, {"num_task_tokens": 4})
    expanding = ExpansionPlan(TASKS, 6, {"expand": {1: singletons()}})
    assert modulating.fingerprint == more_tokens.fingerprint
    assert len({plan.fingerprint for plan in (mixed, modulating, expanding)}) == 3
    assert (
        expanding.fingerprint
        != ExpansionPlan(TASKS, 6, {"expand": {1: singletons()}}, {"num_task_tokens": 4}).fingerprint
    )


def test_plans_survive_every_form(mixed, tmp_path):
    mixed.save(tmp_path / "plan.json")
    config = FixedPlan.model_validate_json(mixed.to_config().model_dump_json())
    for same in (
        ExpansionPlan.load(tmp_path / "plan.json"),
        ExpansionPlan.from_json(mixed.to_json()),
        ExpansionPlan.from_config(ExpansionConfig(policy="fixed", plan=config, num_task_tokens=2), TASKS, 6),
        copy.deepcopy(mixed),
        pickle.loads(pickle.dumps(mixed)),
    ):
        assert same == mixed
        assert same.fingerprint == mixed.fingerprint


def test_a_plan_cannot_be_changed(mixed):
    with pytest.raises(TypeError):
        mixed.groups["modulate"][0] = singletons()
    with pytest.raises(AttributeError):
        mixed.num_layers = 3


@pytest.mark.parametrize(
    ("modulate", "message"),
    [
        ({6: singletons()}, "layers from 0 to 5, got 6"),
        ({-1: singletons()}, "layers from 0 to 5, got -1"),
        ({0: (("semsge",),)}, "got 'semsge'. Did you mean 'semseg'"),
        ({0: (("depth",), ("edge", "depth"))}, "each task once, got 'depth' twice"),
        ({0: ((),)}, "at least one task"),
    ],
)
def test_impossible_plans_are_refused(modulate, message):
    with pytest.raises(ValueError, match=message):
        ExpansionPlan(TASKS, 6, {"modulate": modulate})


@pytest.mark.parametrize(
    ("expand", "message"),
    [
        ({6: singletons()}, "layers from 0 to 5, got 6"),
        ({0: (("semsge",),)}, "got 'semsge'. Did you mean 'semseg'"),
    ],
)
def test_configured_plans_that_do_not_fit_the_model_are_the_users_mistake(expand, message):
    with pytest.raises(ConfigError, match=rf"^expansion\.plan: expand.*{message}"):
        ExpansionPlan.from_config(ExpansionConfig(policy="fixed", plan=FixedPlan(expand=expand)), TASKS, 6)


def test_impossible_questions_are_refused(mixed):
    with pytest.raises(ValueError, match="from 0 to 5, got 6"):
        mixed.streams(6)
    with pytest.raises(ValueError, match=r"got \['parts'\]"):
        mixed.streams(0, ["parts"])
    with pytest.raises(ValueError, match="num_task_tokens must be at least 1"):
        ExpansionPlan(TASKS, 6, {}, {"num_task_tokens": 0})
    with pytest.raises(ValueError, match="different names"):
        ExpansionPlan(("depth", "depth"), 6)


def test_table_has_one_line_per_layer(mixed):
    lines = mixed.table().splitlines()
    assert lines[0].split() == ["layer", "operation", "modulate", "expand", "streams"]
    assert [line.split()[1] for line in lines[2:]] == list(mixed.operations())
    assert "semseg+edge | depth" in lines[3]
    assert "each task" in lines[6]
    assert max(map(len, lines)) < 100


def test_table_of_many_tasks_stays_narrow():
    tasks = tuple(f"a_long_task_name_{index}" for index in range(11))
    plan = ExpansionPlan(tasks, 24, {"modulate": {3: (tasks[:6], tasks[6:])}, "expand": {3: (tasks[2:9],)}})
    assert max(map(len, plan.table().splitlines())) < 100
