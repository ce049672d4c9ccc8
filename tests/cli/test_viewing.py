"""Commands that show a study: show, report, dashboard; and predict on a checkpoint."""

from __future__ import annotations

import csv
import io
import json
import socket
import socketserver
from types import SimpleNamespace

import pytest

from dtme_search.cli.render import listed_extras
from dtme_search.words import COUNTS


@pytest.fixture
def served(monkeypatch):
    """The dashboard listens, and ends at once instead of serving for ever."""
    seen = []
    monkeypatch.setattr(socketserver.BaseServer, "serve_forever", lambda self, *_: seen.append(self))
    monkeypatch.delenv("DTME_DASHBOARD_TOKEN", raising=False)
    return seen


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def place(study_copy, tmp_path) -> tuple[str, ...]:
    """Where the copied study lies, as options."""
    return "--study", "tiny", "--workdir", str(tmp_path / "copied-runs")


def test_show_draws_the_front_and_the_layers(run, place):
    code, out, err = run("show", *place)
    assert (code, err) == (0, "")
    assert "delta_m in percent (up) by overhead (across):" in out and "* on the front" in out
    assert "Layers, input first:" in out and " .  .  . " in out
    drawn = out.partition("delta_m in percent")[2].partition("Best: ")[0]
    assert max(map(len, drawn.splitlines())) <= 80


def test_exports_hold_all_digits_and_whole_counts(run, place):
    as_csv = list(csv.DictReader(io.StringIO(run("show", *place, "--format", "csv").out)))
    as_json = json.loads(run("show", *place, "--format", "json").out)
    assert len(as_csv) == len(as_json) > 3
    for row, other in zip(as_csv, as_json, strict=True):
        for name in COUNTS & row.keys():
            assert row[name] in ("", str(other[name])) and "." not in row[name]
        floats = {name: value for name, value in other.items() if isinstance(value, float)}
        for name, value in floats.items():
            assert float(row[name]) == pytest.approx(value, rel=1e-12)
    assert len(as_csv[0]["gain_depth_percent"]) > 12 and len(as_csv[0]["delta_m_percent"]) > 12


def test_a_metric_of_several_tasks_is_named_once():
    extras = {"edge": {"ods_f": 0.1}, "outline": {"ods_f": 0.2}}
    assert listed_extras(SimpleNamespace(extra_metrics=extras)) == "ods_f is shown"
    extras["sal"] = {"max_f": 0.3}
    assert listed_extras(SimpleNamespace(extra_metrics=extras)) == "ods_f and max_f are shown"


@pytest.mark.parametrize(
    ("name", "options", "start"),
    [
        ("r.html", (), "<!DOCTYPE html>"),
        ("r.md", (), "# Study tiny"),
        ("plain", ("--format", "md"), "# Study tiny"),
    ],
)
def test_report_writes_one_file(run, place, tmp_path, name, options, start):
    target = tmp_path / "out" / name
    code, out, _ = run("report", *place, "--out", target, *options)
    assert code == 0 and out.strip() == str(target)
    assert target.read_text(encoding="utf-8").startswith(start)


def test_the_dashboard_prints_where_it_is(run, place, served, free_port):
    code, out, _ = run("dashboard", *place, "--port", free_port)
    assert code == 0
    assert out.startswith(f"http://127.0.0.1:{free_port}/dashboard/studies/1  (Ctrl-C")
    assert served[0].server_address == ("127.0.0.1", free_port)


def test_elsewhere_it_asks_for_a_token(run, place, served, free_port, monkeypatch):
    out = run("dashboard", *place, "--port", free_port, "--host", "0.0.0.0").out
    assert "?token=" in out and len(out.partition("?token=")[2].split()[0]) >= 32
    monkeypatch.setenv("DTME_DASHBOARD_TOKEN", "mine")
    assert "?token=mine" in run("dashboard", *place, "--port", free_port).out


def test_what_the_dashboard_refuses(run, place, served, free_port):
    code, _, err = run("dashboard", *place, "--port", free_port, "--host", "0.0.0.0", "--writable")
    assert code == 2 and "--writable must go with --host 127.0.0.1, got 0.0.0.0" in err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        code, _, err = run("dashboard", *place, "--port", free_port)
        assert code == 2 and "Address already in use. Give another --port" in err
    assert not served


def test_predict_needs_a_checkpoint_with_its_tasks(run, tmp_path):
    code, _, err = run("predict", tmp_path, "x.png")
    assert code == 2 and "no such checkpoint" in err
    (tmp_path / "checkpoint.pt").touch()
    (tmp_path / "config.yaml").write_text("seed: 1")
    code, _, err = run("predict", tmp_path, "x.png")
    assert code == 2 and "tasks.json must be beside it" in err
