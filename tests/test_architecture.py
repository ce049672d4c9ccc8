"""Who may import whom, what starting up may load, and what no file may name.

The package is a stack of rows: a row imports from the rows above it, and parts of one row do not know each
other. ``search`` is such a stack itself, and no two files import each other, by whatever way round. Imports
under ``TYPE_CHECKING`` and inside functions count like all others.
"""

import ast
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dtme_search"

ROWS = (
    ("version", "errors", "tasks", "operations", "words", "thinning", "lazy", "paths"),
    ("plugins", "guards"),
    ("config",),
    ("data", "metrics", "token_space", "schedules", "combine"),
    ("models",),
    ("training",),
    ("search", "deploy"),
    ("reporting", "testing"),
    ("cli",),
    ("__main__",),
)
ROW_OF = {part: row for row, parts in enumerate(ROWS) for part in parts}

ROWS_OF_SEARCH = (
    ("workspace", "locks", "stopping", "data_shelf"),
    ("space", "proposal"),
    ("storage",),
    ("reuse",),
    ("trial",),
    ("trackers",),
    ("study",),
    ("workers",),
    ("api", "final", "doctor", "manage"),
    ("__init__",),
)
"""The rooms of ``search/``, from what knows least to what a caller may ask for."""
SEARCH_ROW_OF = {part: row for row, parts in enumerate(ROWS_OF_SEARCH) for part in parts}

OUTSIDE = {
    "version": set(),
    "errors": set(),
    "tasks": set(),
    "operations": set(),
    "words": set(),
    "thinning": {"numpy"},
    "plugins": set(),
    "guards": set(),
    "lazy": set(),
    "paths": set(),
    "config": {"pydantic", "pydantic_core", "yaml"},
    "data": {"torch", "numpy", "PIL", "h5py", "scipy", "joblib"},
    "metrics": {"torch", "numpy", "scipy", "joblib"},
    "token_space": {"torch"},
    "schedules": {"torch"},
    "combine": {"torch"},
    "models": {"torch"},
    "training": {"torch"},
    "search": {
        *("optuna", "sqlalchemy", "joblib", "filelock", "dask", "cloudpickle", "torch"),
        *("numpy", "scipy", "threadpoolctl"),
    },
    "reporting": {
        *("pandas", "plotly", "matplotlib", "numpy", "PIL", "torch", "scipy"),
        *("optuna", "optuna_dashboard", "sqlalchemy"),
    },
    "deploy": {"torch", "numpy"},
    "testing": {"torch", "optuna"},
    "cli": {"typer", "rich"},
    "__main__": set(),
}
ALLOWED_IN_FILE = {
    "search/trackers/mlflow.py": {"mlflow"},
    "search/trackers/tensorboard.py": {"PIL"},
    "search/trackers/wandb.py": {"wandb"},
    "models/backbone.py": {"timm"},
    "training/prediction.py": {"numpy", "PIL"},
    "models/pretrained.py": {"timm"},
    "models/weights.py": {"safetensors"},
}
"""Packages that exactly one file may know."""

PROJECT_OF_MODULE = {
    "PIL": "pillow",
    "mlflow": "mlflow-skinny",
    "optuna_dashboard": "optuna-dashboard",
    "yaml": "pyyaml",
}
"""Where the name to install is not the name to import."""

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path):
    """``data`` for ``data/nyud/reader.py``, ``cli`` for ``cli.py``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(path, source):
    """Dotted names of everything a module imports, relative ones resolved."""
    here = ["dtme_search", *path.relative_to(PACKAGE).with_suffix("").parts]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            # What a bare `import dtme_search` is used for shows in its attributes.
            yield from (alias.name for alias in node.names if alias.name != "dtme_search")
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "dtme_search":
            yield f"dtme_search.{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (each.value for each in node.args[:1] if isinstance(each, ast.Constant))


def violations(path, source):
    part = part_of(path)
    if part not in ROW_OF:
        return [f"{part} is in no row; add it to ROWS and OUTSIDE"]
    allowed = OUTSIDE[part] | ALLOWED_IN_FILE.get(path.relative_to(PACKAGE).as_posix(), set())
    found = []
    for name in imported_names(path, source):
        top, _, rest = name.partition(".")
        if top != "dtme_search":
            if top not in allowed and top not in sys.stdlib_module_names:
                found.append(f"imports {top}, which {part} may not know")
            continue
        other = rest.partition(".")[0]
        if other == part:
            found.extend(violations_in_search(path, name) if part == "search" else ())
            continue
        if other not in ROW_OF:
            found.append(f"imports {name}; import from the part that defines it")
        elif ROW_OF[other] == ROW_OF[part]:
            found.append(f"imports its peer {other}")
        elif ROW_OF[other] > ROW_OF[part]:
            found.append(f"imports {other} from a row below")
    return found


def violations_in_search(path, name):
    """What an import between rooms of ``search/`` breaks."""
    own = path.relative_to(PACKAGE).parts[1].removesuffix(".py")
    _, _, other, *_ = [*name.split("."), "__init__"]
    if own not in SEARCH_ROW_OF:
        return [f"search/{own} is in no row; add it to ROWS_OF_SEARCH"]
    if other not in SEARCH_ROW_OF:
        return [f"imports {name}; import from the room that defines it"]
    if own != other and SEARCH_ROW_OF[other] >= SEARCH_ROW_OF[own]:
        is_peer = SEARCH_ROW_OF[other] == SEARCH_ROW_OF[own]
        return [f"imports its peer search/{other}" if is_peer else f"imports search/{other} from a row below"]
    return []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_keep_to_the_rows(path):
    assert violations(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("data/base.py", "from dtme_search.tasks import TaskSpec", None),
        ("data/base.py", "from dtme_search.data.other import x", None),
        ("data/sub/base.py", "from ..other import x", None),
        ("search/api.py", "from dtme_search.version import __version__", None),
        ("search/trial/diary.py", "from dtme_search.search.storage.records import Records", None),
        ("search/api.py", "from dtme_search.search import workspace", None),
        ("search/space/a.py", "from dtme_search.search.storage import b", "imports search/storage from"),
        ("search/space/a.py", "from dtme_search.search import storage", "imports search/storage from"),
        ("search/study/a.py", "from dtme_search.search import optimize", "imports dtme_search.search.opt"),
        ("search/new.py", "from dtme_search.search.trial import a", "search/new is in no row"),
        ("models/backbone.py", "import timm.models", None),
        ("data/base.py", "import os.path", None),
        ("data/base.py", "import timm", "imports timm, which data may not know"),
        ("models/streams.py", "import timm", "imports timm, which models may not know"),
        (
            "metrics/base.py",
            "def f():\n    from scipy import x\n    import pandas as pd",
            "imports pandas, which",
        ),
        ("data/base.py", "from dtme_search.metrics import delta_m", "imports its peer metrics"),
        ("data/base.py", "from dtme_search import metrics", "imports its peer metrics"),
        ("tasks.py", "from .errors import nearest", "imports its peer errors"),
        ("data/sub/base.py", "from ... import models", "imports models from a row below"),
        (
            "data/base.py",
            "if TYPE_CHECKING:\n    import dtme_search.training.trainer",
            "imports training from",
        ),
        ("data/base.py", "importlib.import_module('dtme_search.search')", "imports search from a row below"),
        ("data/base.py", "from dtme_search import RunConfig", "imports dtme_search.RunConfig; import from"),
        (
            "data/base.py",
            "import dtme_search\ndtme_search.RunConfig()",
            "imports dtme_search.RunConfig; import",
        ),
        ("helpers.py", "", "helpers is in no row"),
    ],
)
def test_the_rule_itself(file, source, complaint):
    found = violations(PACKAGE / file, source)
    assert len(found) == (complaint is not None)
    assert complaint is None or found[0].startswith(complaint)


def files_imported_by(path, source):
    """Files of the package that a file imports, ``__init__`` of rooms included where they are named."""
    for name in imported_names(path, source):
        module = PACKAGE.parent / name.replace(".", "/")
        for found in (module.with_suffix(".py"), module.parent.with_suffix(".py"), module / "__init__.py"):
            if found.is_file() and PACKAGE in found.parents and found != path:
                yield found.relative_to(PACKAGE).as_posix()
                break


def circles(graph):
    """Sets of files that reach each other by their imports."""
    reached = {}
    for start in graph:
        seen, waiting = set(), list(graph[start])
        while waiting:
            file = waiting.pop()
            if file not in seen:
                seen.add(file)
                waiting.extend(graph.get(file, ()))
        reached[start] = seen
    found = []
    for file, others in reached.items():
        circle = {other for other in others if file in reached.get(other, ())}
        if circle and circle not in found:
            found.append(circle)
    return found


def test_no_two_files_import_each_other():
    graph = {
        path.relative_to(PACKAGE).as_posix(): set(files_imported_by(path, path.read_text(encoding="utf-8")))
        for path in FILES
    }
    assert sum(map(len, graph.values())) > 500, "imports were not found"
    assert circles(graph) == []


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [{"b", "c"}]


def long_ones(source):
    """What is too long to be read at a glance: code lines of functions, arguments by place of calls."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            has_docstring = isinstance(node.body[0], ast.Expr) and isinstance(
                node.body[0].value, ast.Constant
            )
            body = node.body[has_docstring:]
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            if lines > 45:
                yield f"{node.name} has {lines} lines"
        elif isinstance(node, ast.Call) and len(node.args) > 6 and ast.unparse(node.func) != "fingerprint":
            yield f"line {node.lineno} hands over {len(node.args)} arguments by place"


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if part_of(path) in ("search", "training")],
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_search_and_training_can_be_read(path):
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 350
    assert list(long_ones(source)) == []


PRIVATE_NAMES = re.compile(
    r"(?<!self)\._(study_id|trial_id|backend)\b|\boptuna\._(?!_)|\boptuna[\w.]*\._\w+ import"
    r"|from optuna[\w.]* import .*\b_\w|"
    r"(study|optuna)\._storage\b|timm[\w.]*\._\w+|\bvit\._\w+|from timm[\w.]* import .*\b_\w"
)
KEEPERS_OF_PRIVATE_NAMES = {"search/storage/optuna_internals.py", "models/timm_internals.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_private_names_of_others_are_in_one_file(path):
    """A minor release may change them; where they are used, a test for each name says so."""
    if path.relative_to(PACKAGE).as_posix() not in KEEPERS_OF_PRIVATE_NAMES:
        assert PRIVATE_NAMES.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", ["optuna", "optuna-dashboard", "timm"])
def test_whose_private_names_are_used_has_an_upper_bound(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (line,) = [line for line in project["dependencies"] if re.split(r"[<>=]", line)[0] == name]
    assert "<" in line


def test_what_is_imported_is_declared():
    """Not left to be installed because something else happens to need it."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["data"], *extras["dask"], *extras["mlflow"], *extras["wandb"]]
    required = {re.split(r"[<>=!\[; ]", line)[0] for line in lines}
    tops = {
        name.partition(".")[0]
        for path in FILES
        for name in imported_names(path, path.read_text(encoding="utf-8"))
    }
    # pydantic fixes the version of its core itself.
    outside = tops - set(sys.stdlib_module_names) - {"dtme_search", "pydantic_core"}
    assert {PROJECT_OF_MODULE.get(name, name) for name in outside} <= required


def loaded_outside_packages(code):
    """Which packages that any part may import are loaded after ``code`` has run in a fresh process."""
    report = (
        "import json, sys\n"
        "try:\n"
        f"    {code}\n"
        "except SystemExit as done:\n"
        "    assert not done.code, done.code\n"
        "print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1])) & (set().union(*OUTSIDE.values()) | {"timm"})


def test_importing_the_package_loads_nothing_else():
    assert loaded_outside_packages("import dtme_search") == set()


def test_preparing_data_loads_no_torch():
    # Every process of `data prepare` would pay for it in memory and in seconds.
    assert "torch" not in loaded_outside_packages("import dtme_search.data.nyud.prepare")


def test_help_loads_only_what_prints_it():
    # Half a second is all it may take; pydantic alone would cost most of that.
    if importlib.util.find_spec("dtme_search.cli") is None:
        pytest.skip("there is no command line yet")
    code = "sys.argv = ['dtme-search', '--help']; from dtme_search.cli import main; main()"
    assert loaded_outside_packages(code) <= OUTSIDE["cli"]


COMMANDS = [path for path in FILES if "@app.command" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_typer_need_not_evaluate_annotations(path):
    """As text each is evaluated twice for `--help`, which takes a sixth of its time."""
    assert "from __future__ import annotations" not in path.read_text(encoding="utf-8")


FORBIDDEN = re.compile(
    r"pypi\.org|pythonhoste[d]|download\.pytorch|index[-]url|find[-]links"
    r"|(?<![\w.\-~}>)\]])/(?:work|opt|root)(?![\w\-])"
)
"""Package indexes, and folders that exist on one machine only."""


def files_of_the_repository():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("this is no git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_a_machine_or_a_package_index():
    found = []
    for path in files_of_the_repository():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if match := FORBIDDEN.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert found == []


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("see " + "/" + "work/data", True),
        ("'" + "/" + "opt/x'", True),
        ("cd " + "/" + "root", True),
        ("https://" + "pypi" + ".org/simple", True),
        ("pip install --" + "index" + "-url x", True),
        ("search/workers.py and ./work/x", False),
        ("dtme-runs/work or <study>/root", False),
        ("/data/NYUDv2", False),
    ],
)
def test_that_rule_itself(line, is_found):
    assert bool(FORBIDDEN.search(line)) is is_found
