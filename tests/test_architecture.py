"""Who may import whom, what starting up may load, and what no file may name.

The package is a stack of rows: a row imports from the rows above it, and parts of one row do not know each
other. Imports under ``TYPE_CHECKING`` and inside functions count like all others.
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
    ("errors", "tasks", "words"),
    ("config",),
    ("data", "metrics", "token_space", "schedules", "combine"),
    ("models",),
    ("training",),
    ("search",),
    ("reporting",),
    ("cli",),
    ("__main__",),
)
ROW_OF = {part: row for row, parts in enumerate(ROWS) for part in parts}

OUTSIDE = {
    "errors": set(),
    "tasks": set(),
    "words": set(),
    "config": {"pydantic", "pydantic_core", "yaml"},
    "data": {"torch", "numpy", "PIL", "h5py", "scipy", "joblib"},
    "metrics": {"torch", "numpy", "scipy", "joblib"},
    "token_space": {"torch"},
    "schedules": {"torch"},
    "combine": {"torch"},
    "models": {"torch"},
    "training": {"torch"},
    "search": {"optuna", "sqlalchemy", "joblib", "filelock", "dask", "cloudpickle", "torch"},
    "reporting": {
        *("pandas", "plotly", "matplotlib", "numpy", "PIL", "torch", "scipy"),
        *("optuna", "optuna_dashboard", "sqlalchemy"),
    },
    "cli": {"typer", "rich"},
    "__main__": set(),
}
ALLOWED_IN_FILE = {"models/backbone.py": {"timm"}, "models/weights.py": {"safetensors"}}
"""Packages that exactly one file may know."""

PROJECT_OF_MODULE = {"PIL": "pillow", "yaml": "pyyaml", "optuna_dashboard": "optuna-dashboard"}
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
        if other == "__version__" or other == part:
            continue
        if other not in ROW_OF:
            found.append(f"imports {name}; import from the part that defines it")
        elif ROW_OF[other] == ROW_OF[part]:
            found.append(f"imports its peer {other}")
        elif ROW_OF[other] > ROW_OF[part]:
            found.append(f"imports {other} from a row below")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_keep_to_the_rows(path):
    assert violations(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("data/base.py", "from dtme_search.tasks import TaskSpec", None),
        ("data/base.py", "from dtme_search.data.other import x", None),
        ("data/sub/base.py", "from ..other import x", None),
        ("search/study.py", "from dtme_search import __version__", None),
        ("search/study.py", "import dtme_search\nversion = dtme_search.__version__", None),
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


def test_what_is_imported_is_declared():
    """Not left to be installed because something else happens to need it."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["data"], *extras["dask"]]
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
    assert "torch" not in loaded_outside_packages("import dtme_search.data.nyud_prepare")


def test_help_loads_only_what_prints_it():
    # Half a second is all it may take; pydantic alone would cost most of that.
    if importlib.util.find_spec("dtme_search.cli") is None:
        pytest.skip("there is no command line yet")
    code = "sys.argv = ['dtme-search', '--help']; from dtme_search.cli import main; main()"
    assert loaded_outside_packages(code) <= OUTSIDE["cli"]


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
