"""The names of ``import dtme_search``: all there, all lazy, all the same thing as where they are defined."""

import ast
import inspect
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import api_reference
import pytest

import dtme_search

NAMES = (
    "Callback",
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
    assert {name for name in dir(dtme_search) if not name.startswith("_")} == set(NAMES)


def public_calls():
    """All functions of the public names, and all public methods of the classes among them."""
    for name in NAMES:
        value = getattr(dtme_search, name)
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            yield f"{name}()", value.__init__
            for method, found in inspect.getmembers(value):
                if not method.startswith("_") and (inspect.isfunction(found) or inspect.ismethod(found)):
                    yield f"{name}.{method}", found


def test_whatever_takes_a_path_takes_its_text_too():
    """What the functions do with it, mypy checks: no text has the methods of a path."""
    taken = {
        f"{name}({parameter.name})": parameter.annotation
        for name, call in public_calls()
        for parameter in inspect.signature(call).parameters.values()
        if re.search(r"\bPath\b|StudySource", str(parameter.annotation))
    }
    assert {"optimize(workdir)", "load_study(workdir)", "export_best(path)"} <= set(taken)
    assert {"ExpansionPlan.save(path)", "Trainer.of_config(folder)"} <= set(taken)
    only = {name: kind for name, kind in taken.items() if not re.search(r"\bstr\b|StudySource", str(kind))}
    assert only == {}


def test_another_name_is_an_ordinary_attribute_error():
    with pytest.raises(AttributeError, match="module 'dtme_search' has no attribute 'nonsense'"):
        _ = dtme_search.nonsense


def test_threads_sleep_while_they_wait_from_python_as_from_the_command_line():
    """Set at the first use, before torch is imported; what a user has set stays."""
    code = (
        "import os, sys, dtme_search; dtme_search.RunConfig; "
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    for given, expected in (({}, "PASSIVE False"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE False")):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment | given, check=True
        )
        assert ran.stdout.strip() == expected


def test_the_reference_says_what_the_docstrings_say():
    """Else: ``python tests/api_reference.py --write``."""
    assert api_reference.PAGE.read_text(encoding="utf-8") == api_reference.page()


def test_every_public_name_has_its_place_in_the_reference():
    titles = re.findall(r"^## (\w+)$", api_reference.page(), re.MULTILINE)
    assert titles[: len(NAMES)] == list(NAMES)
    assert "on_evaluation(self, trial: TrialInfo, evaluation: EvaluationInfo)" in api_reference.page()
