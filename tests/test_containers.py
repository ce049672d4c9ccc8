"""Dockerfile and compose.yaml against the program: no Docker is needed, and no container is started."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
import typer
import yaml
from environments import PROJECT, asked_for, build
from packaging.specifiers import SpecifierSet
from pages import ROOT, shell_commands
from tiny import write_tiny_study

from dtme_search.cli import main  # noqa: F401  (it adds all commands)
from dtme_search.cli.app import app

PROGRAM = typer.main.get_command(app)
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
OURS = {name: each for name, each in COMPOSE["services"].items() if each["image"] == "dtme-search"}
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def instructions() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile and what follows them."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = filter(None, text.replace("\\\n", " ").splitlines())
    return [(name, rest) for name, rest in (line.split(maxsplit=1) for line in lines)]


def of(kind: str) -> list[str]:
    return [rest for name, rest in instructions() if name == kind]


def filled(value: str, given: dict[str, str]) -> str:
    """A value of compose.yaml as Docker fills it."""
    return VARIABLE.sub(lambda found: given.get(found[1]) or (found[3] if found[2] == "-" else ""), value)


def accept(words: list[str]) -> None:
    """Every option and argument is one that the program takes; nothing is run."""
    command = PROGRAM
    while hasattr(command, "commands"):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, words)


def test_the_image_has_a_pinned_python_and_no_leftovers():
    arguments = dict(each.split("=", 1) for each in of("ARG"))
    images = [filled(each.split()[0], arguments) for each in of("FROM")]
    assert set(images) == {f"python:{arguments['PYTHON']}-slim"}
    assert arguments["PYTHON"] in SpecifierSet(PROJECT["requires-python"])
    assert of("ADD") == []
    for line in of("RUN"):
        assert ("pip install" in line) <= ("pip install --no-cache-dir" in line), line
        assert "apt-get" not in line or "rm -rf" in line, line


def test_the_program_starts_as_a_user_without_rights_in_a_volume_of_its_own():
    order = [name for name, _ in instructions()]
    assert of("USER") == ["searcher"] and order.index("USER") < order.index("ENTRYPOINT")
    assert not [rest for name, rest in instructions()[order.index("USER") :] if name in ("RUN", "COPY")]
    assert json.loads(of("ENTRYPOINT")[0]) == [*PROJECT["scripts"]]
    (volume,) = of("VOLUME")
    assert volume == of("WORKDIR")[-1] and f"-o searcher -m 700 {volume}" in of("RUN")[-1]
    assert all(place.startswith(volume) for place in re.findall(r"=(/\S+)", of("ENV")[0]))


def test_the_packages_are_those_of_the_project(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (line,) = [line for line in of("RUN") if line.endswith("> requirements.txt")]
    extras = "data onnx postgres"
    assert f'EXTRAS="{extras}"' in of("ARG")
    command = line.replace("python -c", f"{shlex.quote(sys.executable)} -c", 1)
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, env={"EXTRAS": extras})
    assert (tmp_path / "requirements.txt").read_text().split("\n")[:-1] == asked_for(extras.split())
    assert set(extras.split()) <= set(PROJECT["optional-dependencies"])


def is_sent(name: str) -> bool:
    """Whether .dockerignore lets a file through: the last rule that matches decides."""
    sent = True
    for rule in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not rule or rule.startswith("#"):
            continue
        pattern = rule.removeprefix("!").removeprefix("**/")
        parts = [name.rsplit("/", cut)[0] for cut in range(name.count("/") + 1)]
        anywhere = "**/" in rule and pattern in name.split("/")
        if anywhere or any(fnmatch.fnmatch(part, pattern) and "/" not in part for part in parts):
            sent = rule.startswith("!")
    return sent


def test_the_wheel_is_built_from_what_is_sent(tmp_path):
    tops = [path for path in ROOT.iterdir() if is_sent(path.name)]
    files = [file for top in tops for file in ([top] if top.is_file() else top.rglob("*")) if file.is_file()]
    sent = [file for file in files if is_sent(file.relative_to(ROOT).as_posix())]
    names = {path.relative_to(ROOT).as_posix() for path in sent}
    assert {"pyproject.toml", "constraints.txt", "dtme_search/py.typed", "studies/demo.yaml"} <= names
    assert not [
        name for name in names if name.startswith((".git", ".venv", "tests/", "dtme-runs")) or ".pyc" in name
    ]
    for path in sent:
        target = tmp_path / "source" / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (one,) = build(tmp_path / "source", tmp_path / "one", "wheel").iterdir()
    (other,) = build(ROOT, tmp_path / "other", "wheel").iterdir()
    assert one.name == other.name and one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("service", OURS)
def test_the_commands_of_the_services_are_ones_that_the_program_takes(service):
    accept([filled(word, {}) for word in OURS[service]["command"]])
    read = {
        *re.findall(r"DTME_\w+", "".join(path.read_text() for path in (ROOT / "dtme_search").rglob("*.py")))
    }
    assert set(OURS[service]["environment"]) <= read


def test_the_services_fit_together_and_hold_no_secret():
    assert set(COMPOSE["services"]) > {"database", "worker", "dashboard"}
    for service in COMPOSE["services"].values():
        assert set(service.get("depends_on", ())) <= set(COMPOSE["services"])
        for mount in service["volumes"]:
            name = mount.split(":")[0]
            assert name in COMPOSE["volumes"] or name.startswith((".", "$")), mount
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), port
        for name, value in service["environment"].items():
            if re.search("PASSWORD|TOKEN|STORAGE", name):
                assert re.search(r"\$\{\w+:\?", value), f"{name} must come from the environment"
    assert "DTME_DASHBOARD_TOKEN" in COMPOSE["services"]["dashboard"]["environment"]


@pytest.mark.parametrize("line", shell_commands(ROOT / "docs" / "containers.md"))
def test_the_commands_of_the_page(line):
    words = shlex.split(line)
    assert words[0] == "docker"
    if words[1] == "run":
        words = words[words.index("dtme-search") + 1 :]
    elif words[1:3] == ["compose", "run"]:
        words = words[words.index("worker") + 1 :]
    else:
        named = {word.split("=")[0] for word in words} & set(COMPOSE["services"])
        assert words[1] in ("build", "compose") and (named or "worker" not in line)
        return
    if words != ["--version"]:
        accept(words)


@pytest.mark.slow
def test_the_services_do_their_work_on_a_postgres_with_a_password(guarded_server, tmp_path):
    """Their commands and variables as processes of this machine, one after the other."""
    (tmp_path / "studies").mkdir()
    small = {"train.num_steps": 2, "train.num_evaluations": 1, "tasks": {"depth": {}}}
    write_tiny_study(tmp_path / "studies", small, trials=1, enqueue=["unexpanded"])
    given = {
        "STUDY": "tiny",
        "DTME_DASHBOARD_TOKEN": "s3cretToken",
        "POSTGRES_PASSWORD": guarded_server.password,
    }
    url = guarded_server.new_database()

    def start(service: str, **changes: str) -> subprocess.Popen[str]:
        named = {name: filled(value, given) for name, value in OURS[service]["environment"].items()}
        assert named["DTME_STORAGE"].startswith("postgresql://dtme:")
        words = [changes.get(word, filled(word, given)) for word in OURS[service]["command"]]
        # The server of the test has another name and another user.
        environment = {**os.environ, **named, "DTME_STORAGE": url}
        return subprocess.Popen(
            [sys.executable, "-m", "dtme_search", *words],
            cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    for service, words in (("study", "no trial is finished"), ("worker", "No trial of tiny is left")):
        process = start(service)
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0 and words in out, err
        assert guarded_server.password not in out + err
    dashboard = start("dashboard", **{"0.0.0.0": "127.0.0.1", "8080": "18765"})
    try:
        assert dashboard.stdout is not None and "/dashboard/studies/" in dashboard.stdout.readline()
        page = "http://127.0.0.1:18765/dashboard"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(page, timeout=30)
        request = urllib.request.Request(page, headers={"Authorization": "Bearer s3cretToken"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200
    finally:
        dashboard.terminate()
        dashboard.communicate(timeout=30)
