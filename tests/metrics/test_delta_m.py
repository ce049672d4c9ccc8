import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtme_search.errors import BaselineError
from dtme_search.metrics import beats_prior, delta_m, task_gains
from dtme_search.tasks import depth, edge, normals, semseg

TASKS = (semseg(("wall", "floor")), depth(), normals(), edge())
NAMES = tuple(task.name for task in TASKS)
SINGLE_TASK = dict(zip(NAMES, (39.35, 0.6611, 22.14, 59.68), strict=True))
"""NYUD, ViT-T: arXiv 2507.07485v2, Table 1."""
metric_values = st.fixed_dictionaries({name: st.floats(1e-3, 1e3) for name in NAMES})


@pytest.mark.parametrize(
    ("values", "published"),
    [
        ((34.13, 0.6732, 22.51, 55.30), -6.0265),
        ((37.85, 0.6490, 21.75, 56.92), -1.2112),
        ((37.25, 0.6553, 21.87, 57.00), -1.9326),
        ((38.27, 0.6370, 21.64, 57.90), 0.0442),
    ],
    ids=["plain", "TM", "TE", "TM+TE"],
)
def test_published_table_is_reproduced(values, published):
    assert delta_m(dict(zip(NAMES, values, strict=True)), SINGLE_TASK, TASKS) == pytest.approx(
        published, abs=1e-3
    )


def test_sign_follows_the_direction_of_the_metric():
    larger = {name: 1.1 * value for name, value in SINGLE_TASK.items()}
    gains = task_gains(larger, SINGLE_TASK, TASKS)
    assert gains == pytest.approx({"semseg": 10.0, "depth": -10.0, "normals": -10.0, "edge": 10.0})


@given(metric_values, metric_values)
def test_order_of_tasks_does_not_matter(metrics, baselines):
    assert len({delta_m(metrics, baselines, order) for order in itertools.permutations(TASKS)}) == 1


@given(metric_values, metric_values, st.sampled_from(NAMES), st.floats(1e-2, 1e2))
def test_scaling_metric_and_baseline_together_changes_nothing(metrics, baselines, name, scale):
    scaled = ({**values, name: scale * values[name]} for values in (metrics, baselines))
    assert delta_m(*scaled, TASKS) == pytest.approx(delta_m(metrics, baselines, TASKS), rel=1e-9, abs=1e-9)


@given(metric_values)
def test_the_baseline_itself_gains_nothing(baselines):
    assert delta_m(baselines, baselines, TASKS) == 0.0


def test_only_the_tasks_asked_for_are_read():
    assert delta_m({"depth": 0.5, "edge": math.nan}, {"depth": 1.0}, [depth()]) == pytest.approx(50.0)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("name", NAMES)
def test_a_useless_baseline_is_named(name, bad):
    baselines = {**SINGLE_TASK, name: bad}
    if bad is None:
        del baselines[name]
    with pytest.raises(BaselineError, match=f"task '{name}'"):
        delta_m(SINGLE_TASK, baselines, TASKS)


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_a_missing_metric_is_a_programming_error(bad):
    metrics = {**SINGLE_TASK, "depth": bad}
    if bad is None:
        del metrics["depth"]
    with pytest.raises(ValueError, match="metric of task 'depth' must be given and finite"):
        delta_m(metrics, SINGLE_TASK, TASKS)


def test_no_task_has_no_mean():
    with pytest.raises(ValueError, match="at least one task"):
        delta_m({}, {}, [])


@pytest.mark.parametrize(
    ("task", "value", "prior", "expected"),
    [
        (edge(), 0.36, 0.3, True),
        (edge(), 0.32, 0.3, False),
        (edge(), 0.2, 0.3, False),
        (depth(), 0.8, 1.0, True),
        (depth(), 0.95, 1.0, False),
        (depth(), 1.2, 1.0, False),
        (edge(), 0.02, 0.0, True),
        (edge(), 0.005, 0.0, False),
        (depth(), 0.0, 0.0, False),
        (edge(), math.nan, 0.3, False),
        (depth(), math.nan, 1.0, False),
        (edge(), math.inf, 0.3, False),
    ],
)
def test_clearly_better_than_the_prior(task, value, prior, expected):
    assert beats_prior(value, prior, task) is expected


def test_the_margin_is_the_callers():
    assert beats_prior(0.95, 1.0, depth(), margin=0.04)
    assert not beats_prior(0.8, 1.0, depth(), margin=0.25)
    with pytest.raises(ValueError, match="margin must be at least 0"):
        beats_prior(0.8, 1.0, depth(), margin=-0.1)


def test_a_prior_that_is_not_finite_is_an_error():
    with pytest.raises(ValueError, match="prior of task 'depth' must be finite"):
        beats_prior(0.8, math.nan, depth())
