"""Errors that a user can act on."""

import pickle

import pytest

from dtme_search import errors
from dtme_search.errors import DivergedError, DtmeSearchError, nearest


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("semsge", ["depth", "semseg"], " Did you mean 'semseg'?"),
        ("nyud-smal", ["nyud-small", "nyud", "demo"], " Did you mean 'nyud-small' or 'nyud'?"),
        ("zzz", ["b", "a"], " Known: a, b."),
        ("zzz", [], ""),
        ("zzz", [f"name{number}" for number in range(100)], ""),
        ("a", iter(["b"]), " Known: b."),
    ],
)
def test_nearest(name, known, hint):
    assert nearest(name, known) == hint


def test_one_base_catches_all():
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert len(kinds) > 5
    assert all(issubclass(kind, DtmeSearchError) for kind in kinds)
    # A mistake of ours must not look like a user's.
    assert not any(issubclass(kind, ValueError) for kind in kinds)


def test_divergence_names_step_task_and_last_value():
    error = DivergedError(12, "depth", 0.25)
    assert str(error).startswith(
        "step 12: the loss of task 'depth' is not finite; the last finite value was 0.25."
    )
    assert "it was never finite" in str(DivergedError(0, "depth", None))


def test_divergence_comes_back_from_another_process():
    error = pickle.loads(pickle.dumps(DivergedError(12, "depth", 0.25)))
    assert (error.step, error.task, error.last_good) == (12, "depth", 0.25)
