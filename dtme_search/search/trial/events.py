"""The events of a search: passed on to several listeners, and turned into what a process is doing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import partial
from typing import Any

from dtme_search.search.trial.listener import Listener, WorkerStatus

Hear = Callable[[str, Mapping[str, Any]], None]
"""Called with the name of an event (a method of ``Listener``) and its arguments by name."""

EVALUATED = "evaluated: "
"""Start of the message of a sign of life that belongs to an evaluation."""


def tee(*listeners: Listener | Hear) -> Listener:
    """A listener that passes every event on to others, in order."""
    told = Listener()
    for event in EVENTS:
        setattr(told, event, partial(_pass_on, event, listeners))
    return told


def _pass_on(event: str, listeners: tuple[Listener | Hear, ...], /, *values: Any, **named: Any) -> None:
    for listener in listeners:
        if isinstance(listener, Listener):
            getattr(listener, event)(*values, **named)
        else:
            listener(event, _facts(event, *values, **named))


def _facts(event: str, *values: Any, **named: Any) -> dict[str, Any]:
    facts = inspect.signature(getattr(Listener, event)).bind(None, *values, **named).arguments
    del facts["self"]
    if event == "progress" and is_dataclass(facts["progress"]):
        return asdict(facts["progress"])  # type: ignore[arg-type]
    return dict(facts)


EVENTS = tuple(name for name, _ in inspect.getmembers(Listener, inspect.isfunction) if name[0] != "_")


@dataclass(frozen=True)
class Doing:
    """What a process is doing.

    Attributes:
        what: In words, such as ``trial 3`` or ``baseline depth (1 of 4)``.
        status: Its progress.
        around: What a baseline is trained for, and what continues after it.
    """

    what: str = "starting"
    status: WorkerStatus = field(default_factory=lambda: WorkerStatus(0, ""))
    around: str = "starting"

    def after(self, event: str, facts: Mapping[str, Any], now: float) -> Doing:
        """What it is doing after an event at a moment in seconds."""
        like = "data_reading" if event == "scoring" else event
        what, around = self.what, self.around
        match event:
            case "data_reading":
                what = "reading data"
            case "scoring":
                what = "exact metrics"
            case "baseline_started":
                around = around if what.startswith("baseline ") else what
                what = f"baseline {facts['task']} ({facts['index']} of {facts['count']})"
            case "baseline_ended":
                what = around
            case "trial_started":
                what = f"trial {facts['number']}"
            case "repeat_started":
                what = (
                    f"trial {facts['trial']} with seed {facts['seed']} ({facts['index']} of {facts['count']})"
                )
                like, facts = "baseline_ended", {}
            case "progress" if what in ("starting", "reading data"):
                what = "training"
            case "waiting":
                what = f"{what.partition(', waits')[0]}, waits for {facts['what']}"
        return Doing(what, self.status.after(like, facts, now), around)

    @property
    def in_words(self) -> str:
        """What it is doing, its progress and speed, and the time left.

        Example:
            >>> status = WorkerStatus(0, "", trial=3, step=40, total_steps=70, since=(0.0, 0), seen=20.0)
            >>> Doing("trial 3", status).in_words
            'trial 3: step 40 of 70, 2.0 steps/s, 0:15 left'
        """
        status = self.status
        if status.total_steps is None:
            return self.what
        unit = "step" if status.since else "number"
        parts = [f"{self.what}: {unit} {status.step} of {status.total_steps}"]
        if status.since is not None and status.step > status.since[1] and status.seen > status.since[0]:
            rate = (status.step - status.since[1]) / (status.seen - status.since[0])
            parts.append(f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s/step")
        if status.seconds_left:
            parts.append(f"{duration(status.seconds_left)} left")
        if status.delta_m_percent is not None:
            parts.append(f"delta_m {status.delta_m_percent:+.2f} %")
        return ", ".join(parts)


def duration(seconds: float | None) -> str:
    """Minutes and seconds, and hours if there are any.

    Example:
        >>> duration(3725), duration(62.4), duration(None)
        ('1:02:05', '1:02', '')
    """
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
