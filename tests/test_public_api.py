"""The names of ``import dtme_search``: all there, all lazy, all the same thing as where they are defined."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

import dtme_search

NAMES = (
    "ConflictReport",
    "DtmeSearchError",
    "ExpansionPlan",
    "MultiTaskViT",
    "RunConfig",
    "StudyConfig",
    "TokenSpace",
    "Trainer",
    "conflict_rates",
    "delta_m",
    "export_best",
    "load_study",
    "measure_conflicts",
    "optimize",
    "plan_expansion",
    "split_token_space",
)
"""A name added or taken away here is a change for users and belongs into the changelog."""


def test_the_public_names_are_these():
    assert tuple(dtme_search.__all__) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_there_and_explained(name):
    value = getattr(dtme_search, name)
    assert value.__name__ == name
    assert value.__doc__
    assert getattr(import_module(value.__module__), name) is value


def test_type_checkers_see_the_names_where_they_are_loaded_from():
    tree = ast.parse(Path(dtme_search.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names if alias.name in NAMES}
    assert seen == dtme_search._PUBLIC


def test_names_are_listed_before_they_are_loaded():
    assert set(NAMES) <= set(dir(dtme_search))


def test_another_name_is_an_ordinary_attribute_error():
    with pytest.raises(AttributeError, match="module 'dtme_search' has no attribute 'nonsense'"):
        _ = dtme_search.nonsense
