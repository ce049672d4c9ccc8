"""Every example runs as its index says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny import TINY

from dtme_search.search import load_study, optimize

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def shell(tmp_path) -> dict[str, str]:
    """Surroundings in which ``dtme-search`` is this program, and ``srun`` runs its arguments."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, words in {"dtme-search": f'"{sys.executable}" -m dtme_search "$@"', "srun": '"$@"'}.items():
        (programs / name).write_text(f"#!/bin/sh\nexec {words}\n")
        (programs / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "CUDA_VISIBLE_DEVICES": "",
    }


def done(command: list[str], folder: Path, surroundings: dict[str, str]) -> str:
    """What a command prints; it must succeed."""
    ended = subprocess.run(
        command, cwd=folder, env=surroundings, capture_output=True, text=True, timeout=800, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_index_names_every_example():
    index = set(re.findall(r"\]\((.*?)\)", (EXAMPLES / "README.md").read_text()))
    assert [link for link in index if not (EXAMPLES / link).exists()] == []
    named = {link.partition("/")[0] for link in index} | {"README.md", "plugin"}
    assert {path.name for path in EXAMPLES.iterdir()} - {"__pycache__"} <= named


def test_conflicts_in_a_loop_of_one_s_own(shell, tmp_path):
    printed = done([sys.executable, str(EXAMPLES / "conflicts_in_own_loop.py")], tmp_path, shell)
    before, after = re.findall(r"would grow: ((?:none|modulate|expand|both|M|E| )+)", printed)
    assert len(before.split()) == len(after.split()) == 4
    assert "before the training" in printed and "after 60 steps" in printed


@pytest.mark.slow
def test_parts_of_one_s_own(tmp_path):
    shutil.copytree(EXAMPLES / "own_parts", tmp_path / "parts")
    (tmp_path / "parts/parts.py").chmod(0o644)
    study = optimize(tmp_path / "parts/study.yaml", workdir=tmp_path / "runs", trials=2, device="cpu")
    assert {run.state for run in study.records.runs("own-parts")} == {"complete"}
    assert {row.metric for row in study.records.baselines()} == {"miou", "relative_error"}


@pytest.mark.slow
@pytest.mark.timeout(900)  # several programs, each of which imports timm
def test_workers_as_a_slurm_array(shell, tmp_path):
    script = EXAMPLES / "slurm" / "study.sbatch"
    done(["bash", "-n", str(script)], tmp_path, shell)
    config = {**TINY, "tasks": {"depth": {}, "edge": {}}}
    values = {"name": "tiny", "trials": 2, "config": config, "enqueue": [], "search": {}}
    values["search"] = {"train.lr": {"low": 1e-4, "high": 1e-3, "log": True}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    done(["dtme-search", "optimize", "--study", "tiny.yaml", "--timeout", "0"], tmp_path, shell)
    (tmp_path / ".dtme-storage").write_text(f"DTME_STORAGE=sqlite:///{tmp_path}/dtme-runs/tiny/study.db\n")
    element = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "1"}
    printed = done(["bash", str(script)], tmp_path, shell | element | {"STUDY": "tiny"})
    assert "element 3 of job 17" in printed and "study tiny" in printed
    runs = load_study("tiny", workdir=tmp_path / "dtme-runs").records.runs("tiny")
    assert [run.state for run in runs] == ["complete"] * 2 and {run.threads for run in runs} == {1}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_deployed_network_without_torch(shell, tmp_path):
    pytest.importorskip("onnxruntime")
    config = {**TINY, "tasks": {"semseg": {}, "depth": {}, "normals": {}}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    done(["dtme-search", "train", "tiny.yaml", "--no-baselines"], tmp_path, shell)
    (folder,) = (tmp_path / "dtme-runs/train").glob("tiny-*")
    done(["dtme-search", "deploy", str(folder), "--out", "net.onnx"], tmp_path, shell)
    Image.fromarray(np.arange(60 * 90 * 3, dtype=np.uint8).reshape(60, 90, 3)).save(tmp_path / "photo.png")
    for name in ("torch", "dtme_search"):  # stand before the real ones
        (tmp_path / "absent" / name).mkdir(parents=True)
        (tmp_path / "absent" / name / "__init__.py").write_text(f"raise ImportError('{name} is absent')\n")
    script = str(EXAMPLES / "onnx_without_torch.py")
    command = [sys.executable, script, "net.onnx", "photo.png", "--out", "found"]
    done(command, tmp_path, shell | {"PYTHONPATH": str(tmp_path / "absent")})
    with Image.open(tmp_path / "found/semseg.png") as classes:
        assert classes.size == (48, 32)
    assert np.load(tmp_path / "found/depth.npy").shape == (32, 48)
    lengths = np.linalg.norm(np.load(tmp_path / "found/normals.npy"), axis=0)
    assert lengths == pytest.approx(1.0, abs=1e-4)


@pytest.mark.slow
def test_the_notebook_cell_by_cell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((EXAMPLES / "study.ipynb").read_text())["cells"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "clear the outputs before you commit"
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert (tmp_path / "notebook-best.yaml").is_file()
    assert len(names["view"].results()) >= 4
