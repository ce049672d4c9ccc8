"""Callbacks by object, import path or name, called next to a listener; none can disturb a trial."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from dtme_search.errors import ConfigError
from dtme_search.plugins import Family
from dtme_search.search.trackers.mlflow import MLflow
from dtme_search.search.trackers.tensorboard import TensorBoard
from dtme_search.search.trackers.tracker import TrackerKind
from dtme_search.search.trackers.wandb import WandB
from dtme_search.search.trial.callback import Callback
from dtme_search.search.trial.events import tee
from dtme_search.search.trial.listener import Listener

CallbackSource = Callback | str
"""A callback, the import path ``module:attribute`` of one or of a function that returns one, or the name of a
tracker."""

TRACKERS = Family(
    "trackers",
    TrackerKind,
    {"mlflow": TrackerKind(MLflow), "tensorboard": TrackerKind(TensorBoard), "wandb": TrackerKind(WandB)},
)
"""What ``--tracker`` may name."""

_THEIRS = [name for name in vars(Callback) if name.startswith("on_")]

_log = logging.getLogger(__name__)


class Calling:
    """Passes the events on to callbacks; use it with ``tee``.

    Args:
        callbacks: Who receives them.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = callbacks
        self._warned: set[tuple[type, str, type]] = set()

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        for callback in self._callbacks if event in _THEIRS else ():
            try:
                getattr(callback, event)(*facts.values())
            except Exception as error:  # an observer must not end what it observes
                kind = (type(callback), event, type(error))
                if kind not in self._warned:
                    self._warned.add(kind)
                    name = f"{type(callback).__name__}.{event}"
                    told = f"{type(error).__name__}: {error}"
                    _log.warning(
                        "callback %s: %s; the search continues, repeats are not reported", name, told
                    )


def with_callbacks(
    listener: Listener, callbacks: Sequence[CallbackSource], files: Sequence[str] = ()
) -> Listener:
    """The listener, together with callbacks.

    Args:
        listener: Hears every event first.
        callbacks: Hear those of ``Callback``.
        files: ``plugins`` of the study, which may bring trackers.

    Raises:
        ConfigError: If one is not a callback.
    """
    found = [_loaded(each, files) for each in callbacks]
    return tee(listener, Calling(found)) if found else listener


def import_paths(callbacks: Sequence[CallbackSource]) -> tuple[str, ...]:
    """The import paths and names of callbacks, which other processes can load.

    Raises:
        ConfigError: If one is an object.
    """
    for each in callbacks:
        if not isinstance(each, str):
            raise ConfigError(
                "callbacks: several workers are processes and need import paths like 'module:attribute', got "
                f"a {type(each).__name__}. Name what makes it, or use workers=1."
            )
    return tuple(str(each) for each in callbacks)


def _loaded(source: CallbackSource, files: Sequence[str]) -> Callback:
    found: object = source
    if isinstance(source, str) and ":" not in source:
        found = TRACKERS.find(source, "tracker", files).make()
    elif isinstance(source, str):
        module, _, attribute = source.partition(":")
        try:
            found = getattr(import_module(module), attribute)
            found = found() if callable(found) and not isinstance(found, Callback) else found
        except Exception as error:
            raise ConfigError(
                f"callback '{source}' must name a callback as module:attribute, got {type(error).__name__}: "
                f"{error}. Check the spelling, and that the module can be imported here."
            ) from error
    if not isinstance(found, Callback):
        raise ConfigError(
            f"callback {source!r} must be a dtme_search.Callback, got a {type(found).__name__}. Derive its "
            "class from Callback."
        )
    return found
