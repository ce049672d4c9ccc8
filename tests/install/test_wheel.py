"""What is built holds what it should, and works where nothing else of ours is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from environments import EXTRAS, PROJECT, ROOT, asked_for, build
from packaging.requirements import Requirement
from tiny import write_tiny_study

from dtme_search import __version__

NOT_SHIPPED = (".ci/",)
"""What the archive of sources leaves out: what only the project's own machines need."""


def tracked() -> set[str]:
    """Files of the project as git has them, new ones included."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("only a git checkout says which files belong to the project")
    return {name for name in found.stdout.splitlines() if (ROOT / name).is_file()}


def members_of_wheel(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_package_and_the_shipped_files_and_nothing_else(wheel):
    files = tracked()
    wanted = {name for name in files if name.startswith("dtme_search/")}
    wanted |= {f"dtme_search/shipped/{name}" for name in files if name.startswith(("studies/", "configs/"))}
    about = f"dtme_search-{__version__}.dist-info"
    beside = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    held = members_of_wheel(wheel)
    assert set(held) == wanted | {f"{about}/{name}" for name in beside}
    assert "dtme_search/py.typed" in held
    assert {Path(name).suffix for name in wanted} == {".py", ".yaml", ".typed"}


def test_the_archive_of_sources_holds_the_whole_project(built):
    (archive,) = built.glob("*.tar.gz")
    top = f"dtme_search-{__version__}/"
    with tarfile.open(archive) as opened:
        held = {name.removeprefix(top) for name in opened.getnames()}
    wanted = {name for name in tracked() if not name.startswith(NOT_SHIPPED)}
    assert held == wanted | {"PKG-INFO"}


def test_the_archive_of_sources_builds_the_same_wheel(built, wheel, tmp_path):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    (again,) = build(source, tmp_path / "again", "wheel").iterdir()
    assert again.name == wheel.name
    assert members_of_wheel(again) == members_of_wheel(wheel)


def test_what_the_wheel_says_of_itself_is_what_the_project_says(wheel):
    held = members_of_wheel(wheel)
    about = Parser().parsestr(held[f"dtme_search-{__version__}.dist-info/METADATA"].decode())
    assert (about["Version"], about["Name"]) == (__version__, "dtme-search")
    assert about["Requires-Python"] == PROJECT["requires-python"]
    assert set(EXTRAS) < set(about.get_all("Provides-Extra") or ())
    asked = {Requirement(text).name for text in about.get_all("Requires-Dist") or () if "extra" not in text}
    assert asked == {Requirement(text).name for text in PROJECT["dependencies"]}


def test_the_version_and_its_date_are_the_same_everywhere():
    """``version.py`` says it; to release, set both in the citation and begin a section of the changelog."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.*)$", changes, re.MULTILINE)
    assert titles[0] == "[Unreleased]"
    assert titles[1] == f"{__version__} - {cited['date-released']}"
    assert cited["version"] == __version__


def test_the_installed_program_runs(installed, tmp_path):
    version = installed.run("--version", cwd=tmp_path)
    assert version.stdout.split()[-1] == __version__, version.stderr
    listed = installed.run("studies", cwd=tmp_path)
    for study in (ROOT / "studies").glob("*.yaml"):
        assert study.stem in listed.stdout, listed.stderr
    schema = json.loads(installed.run("schema", "config", cwd=tmp_path).stdout)
    assert "train" in schema["properties"]
    place = installed.call(
        installed.python, "-c", "import dtme_search; print(dtme_search.__file__)", cwd=tmp_path
    )
    assert place.stdout.startswith(str(installed.packages))


@pytest.mark.slow
def test_a_search_with_the_installed_program_goes_all_the_way(installed, tmp_path):
    """The shipped config is found without a checkout, and its tasks are trained."""
    small = {"train.num_steps": 2, "train.num_evaluations": 1, "tasks": {"depth": {}, "edge": {}}}
    write_tiny_study(tmp_path, small, trials=2, enqueue=["unexpanded", "paper"])
    for words in (
        ("optimize", "--study", "tiny.yaml", "--device", "cpu", "--workers", "1"),
        ("show", "--study", "tiny"),
        ("report", "--study", "tiny", "--out", "report.html"),
        ("export", "--study", "tiny", "--best", "--force", "--out", "best.yaml"),
    ):
        done = installed.run(*words, cwd=tmp_path)
        assert done.returncode == 0, f"{words}: {done.stderr}"
    assert yaml.safe_load((tmp_path / "best.yaml").read_text(encoding="utf-8"))["tasks"].keys() == {
        "depth",
        "edge",
    }
    shipped = installed.run("data", "show", "scenes", "--out", "sheet.png", cwd=tmp_path)
    assert shipped.returncode == 0, shipped.stderr


@pytest.mark.slow
def test_the_index_has_what_the_wheel_asks_for(wheel, tmp_path):
    """Without our constraints, as users install it: the newest of everything fits together."""
    everything = f"dtme-search[{','.join(EXTRAS)}] @ {wheel.as_uri()}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    reach = subprocess.run([*command, "--no-deps", "filelock"], capture_output=True, text=True)
    if reach.returncode:
        pytest.skip(f"no package index answers: {reach.stderr.strip().splitlines()[-1]}")
    report = tmp_path / "report.json"
    done = subprocess.run([*command, "--report", report, everything], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {item["metadata"]["name"].lower() for item in json.loads(report.read_text())["install"]}
    assert {Requirement(text).name.lower() for text in asked_for(EXTRAS)} <= found
