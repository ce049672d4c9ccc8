"""The wire format of listeners: what a worker hears, its parent hears, whatever the event.

A new method of ``Listener`` must be entered here, and so somebody decides whether it travels.
"""

import inspect
import io
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from test_records import BASELINE

from dtme_search.search.trial.listener import Listener, WorkerStatus
from dtme_search.search.trial.outcome import Outcome
from dtme_search.search.workers.wire import Reporter, parse_report, repeat_news
from dtme_search.training import Progress

OUTCOME = Outcome(
    delta_m_percent=1.5,
    gains_percent={"depth": 1.5},
    metrics={"depth": 0.75},
    param_overhead_percent=0.25,
    step_cost_ratio=1.25,
    dead_tasks=("edge", "depth"),
    violations={"step_cost_ratio": -0.5},
    further={"worst_gain_percent": 1.5},
)
NEWS = {
    "baseline_ended": {"task": "depth", "row": BASELINE, "trained": True},
    "trial_started": {"number": 3, "finished": 2, "total": 9, "params": {"train.lr": 0.1, "a": None}},
    "trial_evaluated": {"number": 3, "step": 40, "delta_m_percent": -1.25},
    "trial_completed": {"number": 3, "outcome": OUTCOME},
    "trial_stopped": {"number": 3, "state": "failed", "reason": 'a "quoted"\nreason'},
    "trial_recovered": {"number": 3, "how": "continued"},
    "short_of_memory": {"number": 3, "reason": "in parts"},
}
"""Heard again in the process that started the worker, with equal arguments."""
SIGNS = {
    "data_reading": {"done": 5, "total": 5},
    "baseline_started": {"task": "depth", "index": 1, "count": 4},
    "progress": {"progress": Progress(7, 7, {"depth": 0.5}, "measuring")},
    "waiting": {"what": "equal work"},
}
"""Change what is shown of the worker, and are not heard again."""
OF_THE_PARENT = {
    *("scoring", "repeat_started", "repeat_ended", "repeat_failed"),  # of commands that have no workers
    *("knowledge_found", "knowledge_added", "workers", "worker_died"),  # what only the parent knows
}
OF_THE_WORKER = {
    *("on_study_begin", "on_baseline_end", "on_trial_begin", "on_evaluation", "on_trial_end", "on_study_end")
}
"""For callbacks, of which each worker has its own."""


class Heard(Listener):
    """Keeps every event as it was heard."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict]] = []


def _keep(name):
    signature = inspect.signature(getattr(Listener, name))

    def heard(self, *given, **named):
        bound = signature.bind(self, *given, **named).arguments
        self.events.append((name, {key: value for key, value in bound.items() if key != "self"}))

    return heard


EVENTS = [name for name, _ in inspect.getmembers(Listener, inspect.isfunction) if not name.startswith("_")]
for event in EVENTS:
    setattr(Heard, event, _keep(event))


def through_the_wire(name, facts):
    stream = io.StringIO()
    getattr(Reporter(stream), name)(**facts)
    return stream.getvalue().splitlines()


def test_it_is_known_of_every_event_whether_it_travels():
    assert sorted(EVENTS) == sorted({*NEWS, *SIGNS, *OF_THE_PARENT, *OF_THE_WORKER})


@pytest.mark.parametrize("name", NEWS)
def test_news_are_heard_again_as_they_were(name):
    (line,) = through_the_wire(name, NEWS[name])
    here = Heard()
    repeat_news(here, *parse_report(line))
    assert here.events == [(name, NEWS[name])]


@pytest.mark.parametrize("name", SIGNS)
def test_signs_of_life_change_the_status_only(name):
    (line,) = through_the_wire(name, SIGNS[name])
    here, status = Heard(), WorkerStatus(0, "CPU")
    repeat_news(here, *parse_report(line))
    assert here.events == []
    assert status.after(*parse_report(line), 1.0) != status


@pytest.mark.parametrize("name", sorted(OF_THE_PARENT | OF_THE_WORKER))
def test_what_only_the_parent_or_the_worker_hears_does_not_travel(name):
    assert getattr(Reporter, name) is getattr(Listener, name)


def test_a_baseline_that_was_there_is_no_news():
    (line,) = through_the_wire("baseline_ended", NEWS["baseline_ended"] | {"trained": False})
    here = Heard()
    repeat_news(here, *parse_report(line))
    assert here.events == []


def test_times_and_numbers_survive_exactly():
    row = replace(BASELINE, value=0.1 + 0.2, created_at=datetime(2026, 11, 28, 1, 2, 3, 456789, tzinfo=UTC))
    (line,) = through_the_wire("baseline_ended", {"task": "depth", "row": row, "trained": True})
    here = Heard()
    repeat_news(here, *parse_report(line))
    assert here.events[0][1]["row"] == row
