"""Commands that `device.py` runs as a user would, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def small_search(device: str, trials: int, num_steps: int, seconds: float) -> dict[str, Any]:
    """A search on rendered rooms, baselines included."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dtme_search", "optimize", "--study", "demo", "--workdir", folder]
        command += ["--trials", str(trials), "--workers", "1", "--device", device]
        return run_command([*command, "--set", f"train.num_steps={num_steps}"], seconds)


def pretrained_study(device: str, data_root: str, checkpoint: str, seconds: float) -> dict[str, Any]:
    """Baselines and four trials on photographs of NYUDv2, from the first six blocks of pretrained weights."""
    recipe = {
        "num_steps": 400,
        "batch_size": 8,
        "optimizer": "adamw",
        "lr": 1e-4,
        "weight_decay": 0.01,
        "warmup_steps": 20,
        "grad_clip": 1.0,
        "num_evaluations": 2,
    }
    values = {
        "name": "pretrained",
        "trials": 4,
        "search": {
            "expansion.policy": {"choices": ["none", "conflict"]},
            "seed": {"choices": [0, 1]},
        },
        "sampler": {"name": "random"},
        "enqueue": [],
        "config": {
            "data": {
                "name": "nyud",
                "image_size": [224, 304],
                "augment": {"scale": [1.0, 1.0], "photometric": 0.0},
                "nyud": {"num_classes": 39},
            },
            "tasks": {task: {} for task in ("semseg", "depth", "normals", "edge")},
            "model": {
                "backbone": "vit_small_patch14_dinov2",
                "backbone_options": {"patch_size": 16, "depth": 6},
                "checkpoint": str(Path(checkpoint).resolve()),
            },
            "expansion": {"policy": "conflict", "start": 0.0, "decoder_warmup_steps": 60},
            "train": recipe,
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pretrained.yaml"
        file.write_text(json.dumps(values), encoding="utf-8")
        command = [sys.executable, "-m", "dtme_search", "optimize", "--study", str(file), "--workdir", folder]
        command += ["--data-root", data_root, "--workers", "1", "--device", device]
        return run_command(command, seconds, keep=6000)


def run_command(command: list[str], seconds: float, keep: int = 2500) -> dict[str, Any]:
    """What a command printed last, its exit code and how long it took; one that takes too long is ended."""
    begun = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        code: int | str = done.returncode
        said = done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        code = f"ended after {seconds:.0f} s"
        said = "".join(
            part.decode() if isinstance(part, bytes) else part or "" for part in (error.stdout, error.stderr)
        )
    return {"exit_code": code, "seconds": time.perf_counter() - begun, "said": said[-keep:]}
