"""The script that measures a device works, here on the CPU and with a tiny network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_it_measures_and_tells_what_failed(tmp_path):
    out = tmp_path / "device.json"
    command = [sys.executable, "benchmarks/device.py", "--device", "cpu", "--quick", "--out", str(out)]
    parts = ["equal", "waits", "steps", "conflicts", "loading", "compiled", "study"]
    done = subprocess.run(
        [*command, "--parts", *parts], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert set(report) == {"machine", *parts}
    assert report["equal"]["largest_relative_gap"] == 0
    rows = report["steps"]
    assert [row["streams"] for row in rows] == [1, 2, 4]
    assert 1 < rows[1]["times_flops"] < rows[2]["times_flops"] < 4
    assert all("error" not in row and row["step_ms"] > 0 for row in rows)
    assert "skipped" in report["study"] and "skipped" in report["compiled"]
    assert done.stdout.count("| vit_tiny_patch16_224 | float32 | no |") == 3
