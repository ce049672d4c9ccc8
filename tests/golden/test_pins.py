"""Pinned values: nobody changes a number or a name that users' databases rely on without noticing."""

import json

import pytest
from pins import FILE, VERSION_OF, VERSIONS, computed, differences, what_to_do

PINNED = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def now():
    return computed()


@pytest.mark.parametrize("section", VERSION_OF)
def test_values_are_as_pinned(now, section):
    changed = list(differences(PINNED["values"][section], now[section], section))
    assert not changed, what_to_do(section) + "\n" + "\n".join(changed)


def test_versions_never_go_back():
    assert all(version >= PINNED["released"][name] for name, (version, _) in VERSIONS.items())


def test_another_canonical_form_is_noticed(monkeypatch):
    # Every name of every user changes with another separator, and no other test would see it.
    real = json.dumps
    monkeypatch.setattr(
        "dtme_search.config.identity.json.dumps",
        lambda *args, **kwargs: real(*args, **kwargs | {"separators": (", ", ": ")}),
    )
    from pins import fingerprints

    assert list(differences(PINNED["values"]["fingerprints"], fingerprints()))


@pytest.mark.parametrize(
    ("old", "new", "count"),
    [
        (1.0, 1.00001, 0),
        (1.0, 1.01, 1),
        ({"a": [1, 2.0]}, {"a": [1, 2.0]}, 0),
        ({"a": "x"}, {"a": "y", "b": 1}, 2),
        ([1], [1, 2], 1),
    ],
)
def test_differences(old, new, count):
    assert len(list(differences(old, new))) == count
