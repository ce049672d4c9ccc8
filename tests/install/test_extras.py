"""Each extra alone: without it one line says what to install, with it (and no other) its work is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from environments import EXTRAS, Environment, make_environment
from mat_file import write_mat
from tiny import TINY, with_paths, write_tiny_study

Words = tuple[object, ...]
SMALL = {"train.num_steps": 2, "train.num_evaluations": 1, "tasks": {"depth": {}}}


def prepare_nyud(folder: Path) -> Words:
    source = write_mat(folder / "official", 2)
    return ("data", "prepare", "nyud", "--source", source, "--out", "made")


def deploy(folder: Path) -> Words:
    return ("deploy", next(folder.glob("dtme-runs/train/*/checkpoint.pt")), "--out", "net.onnx")


def search(*options: object) -> Callable[[Path], Words]:
    def words(folder: Path) -> Words:
        study = write_tiny_study(folder, SMALL, trials=1, enqueue=["unexpanded"])
        return ("optimize", "--study", study, *options)

    return words


NOBODY = "127.0.0.1:9"
"""Where no database answers: its driver is loaded, which then finds out."""
WORK: dict[str, tuple[Callable[[Path], Words], str]] = {
    "data": (prepare_nyud, ""),
    "postgres": (search("--storage", f"postgresql://ann@{NOBODY}/studies"), "connection"),
    "mysql": (search("--storage", f"mariadb://ann@{NOBODY}/studies"), "connect"),
    "onnx": (deploy, ""),
    "tensorboard": (search("--tracker", "tensorboard"), ""),
    "mlflow": (search("--tracker", "mlflow"), ""),
    "wandb": (search("--tracker", "wandb"), ""),
    "dask": (search("--engine", "dask", "--workers", "1"), ""),
}
"""Extra -> what needs it, and the words with which that fails if the extra is there (none: it succeeds)."""


@pytest.fixture(scope="module")
def trained(installed: Environment, tmp_path_factory) -> Path:
    """A folder with the run of a network."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "net.yaml").write_text(yaml.safe_dump(with_paths(TINY, SMALL)), encoding="utf-8")
    done = installed.run("train", "net.yaml", "--no-baselines", "--device", "cpu", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_alone(extra, installed, trained, wheel, tmp_path):
    assert extra in WORK, f"the extra {extra} needs an entry in WORK: what is it for?"
    command, refusal = WORK[extra]
    words = command(trained)
    without = installed.run(*words, cwd=trained)
    assert without.returncode == 2, without.stdout
    assert f"pip install 'dtme-search[{extra}]'" in without.stderr
    assert len(without.stderr.strip().splitlines()) == 1, without.stderr
    alone = make_environment(tmp_path / "env", wheel, [extra])
    done = alone.run(*words, cwd=trained, WANDB_MODE="offline")
    assert "pip install" not in done.stderr
    assert (done.returncode == 0) is (not refusal), done.stderr
    assert refusal in done.stderr
