"""Errors that a user can act on. The command line prints each as one line and exits with code 2.

DtmeSearchError
 ├── ConfigError      a YAML file, an override or a combination of fields is wrong
 ├── DataError        a data set is missing, incomplete or unreadable
 ├── BaselineError    a single-task baseline is missing, zero or not finite
 ├── TrainingError    a run cannot go on
 │    ├── DivergedError     a loss is no longer finite
 │    ├── OutOfMemoryError  a training step does not fit into memory
 │    └── DiskFullError     nothing more can be written
 ├── BrokenRule       a part of your own breaks a rule of its family
 ├── StorageError     the database cannot be reached or holds something else
 └── ExportError      a trial may not be exported

Messages read ``<where>: <name> must <rule>, got <value>. <What to do>.`` A programming error is none
of these and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DtmeSearchError(Exception):
    """Base of every error that names its cause and a way out."""


class ConfigError(DtmeSearchError):
    """A configuration value is unknown, of the wrong type or out of range."""


class DataError(DtmeSearchError):
    """A data set is missing, incomplete or unreadable."""


class BaselineError(DtmeSearchError):
    """A single-task baseline is missing, zero or not finite."""


class TrainingError(DtmeSearchError):
    """A training run cannot continue."""


class DivergedError(TrainingError):
    """A task loss is not finite any more.

    Args:
        step: Step at which it happened, 0-based.
        task: Name of the task.
        last_good: Last finite loss of that task, or ``None`` if there never was one.
    """

    def __init__(self, step: int, task: str, last_good: float | None) -> None:
        before = "it was never finite" if last_good is None else f"the last finite value was {last_good:.4g}"
        super().__init__(
            f"step {step}: the loss of task '{task}' is not finite; {before}. "
            "Lower train.lr or set train.grad_clip."
        )
        self.step = step
        self.task = task
        self.last_good = last_good

    def __reduce__(self) -> tuple[type[DivergedError], tuple[int, str, float | None]]:
        # Exceptions are pickled by their message, which is not what the constructor takes.
        return type(self), (self.step, self.task, self.last_good)


class OutOfMemoryError(TrainingError):
    """A training step does not fit into the memory of its device."""


class DiskFullError(TrainingError):
    """There is no space left for what a run has to write. No trial can go on before there is."""


class BrokenRule(DtmeSearchError):
    """A part of your own breaks a rule of its family: which part, which method, which rule."""


class StorageError(DtmeSearchError):
    """The database cannot be reached, lacks a driver, or holds another study."""


class ExportError(DtmeSearchError):
    """The trial asked for may not be exported."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Say what was probably meant: ``" Did you mean 'x'?"``, or the known names, or nothing.

    Example:
        >>> nearest("semsge", ["depth", "semseg"])
        " Did you mean 'semseg'?"
        >>> nearest("zzz", ["depth", "semseg"])
        ' Known: depth, semseg.'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return " Did you mean " + " or ".join(f"'{match}'" for match in close) + "?"
    if names and len(names) <= 20:
        return f" Known: {', '.join(names)}."
    return ""
