"""A search with each decoder, through every command to pictures of predictions."""

from __future__ import annotations

import pytest
from PIL import Image
from tiny import grown, write_tiny_study

from dtme_search.search import load_study

OF_DECODER = {
    "dpt": {"model.decoder_channels": 8},
    "invpt": {"model.decoder_channels": 24, "model.decoder_options": {"invpt": {"mixing_channels": 8}}},
}


@pytest.mark.slow
@pytest.mark.parametrize("decoder", OF_DECODER)
def test_from_study_to_pictures(run, tmp_path, decoder):
    changes = {"model.decoder": decoder, "data.image_size": [32, 64], **OF_DECODER[decoder]}
    points = ["unexpanded", "paper", grown("none", "modulate", "both")]
    write_tiny_study(tmp_path, changes, trials=3, enqueue=points)
    where = ("--study", "tiny", "--workdir", "runs")
    done = run("optimize", "--study", "tiny.yaml", "--workdir", "runs", "--device", "cpu")
    assert done.code == 0, done.err
    study = load_study("tiny", workdir=tmp_path / "runs")
    assert [trial.state.name for trial in study.optuna.trials] == ["COMPLETE"] * 3
    overheads = [row.param_overhead_percent for row in study.records.runs("tiny")]
    assert overheads[0] == 0.0 and min(overheads[1:]) > 0.0

    for words in (
        ("show", *where),
        ("report", *where, "--out", "report.html"),
        ("export", *where, "--trial", "2", "--force", "--out", "best.yaml"),
        ("train", "best.yaml", "--workdir", "runs", "--device", "cpu", "--no-baselines"),
    ):
        done = run(*words)
        assert done.code == 0, f"{words}: {done.err}"
    assert f"with <code>{decoder}</code>" in (tmp_path / "report.html").read_text(encoding="utf-8")
    (folder,) = (tmp_path / "runs" / "train").glob("best-*")
    Image.linear_gradient("L").convert("RGB").resize((90, 60)).save(tmp_path / "room.png")
    done = run("predict", folder, "room.png", "--out", "panels", "--device", "cpu")
    assert done.code == 0, done.err
    assert [path.stat().st_size > 5_000 for path in (tmp_path / "panels").glob("*.png")] == [True]
