"""Signs of life without a terminal, the log file, and what -q and -v mean for every command."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import typer
import yaml
from tiny import TINY, write_tiny_study

from dtme_search.cli.app import app
from dtme_search.cli.main import with_flags_first
from dtme_search.cli.signs import Signs
from dtme_search.search import Listener, WorkerStatus
from dtme_search.search.trial.events import EVENTS, Doing, tee
from dtme_search.training import Progress
from dtme_search.version import __version__

ALONE = {"tasks": {"depth": {}}, "train.num_steps": 4, "train.num_evaluations": 2}


class TestLines:
    def test_an_evaluation_is_told_at_once_with_what_step_rate_and_rest(self):
        lines: list[str] = []
        hears = tee(Signs(lines.append).hear)
        hears.trial_started(3, 0, 4, {})
        hears.progress(Progress(0, 70, {}))
        time.sleep(0.02)
        hears.progress(Progress(40, 70, {"depth": 0.5}))
        assert lines == [], "a step is no news"
        hears.trial_evaluated(3, 40, 0.42)
        hears.progress(Progress(40, 70, {}, "evaluated: depth 1.20 m"))
        (line,) = lines
        form = (
            r"trial 3: step 40 of 70, \d+\.\d steps/s, 0:00 left, delta_m \+0\.42 %; evaluated: depth 1\.20 m"
        )
        assert re.fullmatch(form, line)

    @pytest.mark.parametrize(
        ("begun", "facts", "what"),
        [
            ("data_reading", {"done": 1, "total": 1}, "training"),
            ("trial_started", {"number": 3}, "trial 3"),
            (
                "repeat_started",
                {"trial": 1, "seed": 2, "index": 1, "count": 4},
                "trial 1 with seed 2 (1 of 4)",
            ),
        ],
    )
    def test_the_training_after_the_last_baseline_is_not_called_that_baseline(self, begun, facts, what):
        doing = Doing().after(begun, facts, 0.0)
        for index, task in enumerate(("depth", "edge"), start=1):
            doing = doing.after("baseline_started", {"task": task, "index": index, "count": 2}, 0.0)
            assert doing.in_words == f"baseline {task} ({index} of 2)"
            doing = doing.after("progress", asdict(Progress(3, 70, {})), 2.0)
            doing = doing.after("baseline_ended", {"task": task}, 1.0)
        doing = doing.after("progress", asdict(Progress(3, 70, {})), 2.0)
        assert doing.what == what

    def test_something_is_told_although_nothing_happens(self):
        lines: list[str] = []
        with Signs(lines.append, between=0.05) as signs:
            hears = tee(signs.hear)
            hears.baseline_started("depth", 1, 4)
            hears.waiting("baseline depth")
            time.sleep(0.5)
        assert "baseline depth (1 of 4), waits for baseline depth" in lines

    def test_each_of_several_workers_is_told(self):
        lines: list[str] = []
        with Signs(lines.append, between=0.05) as signs:
            hears = tee(signs.hear)
            statuses = [
                WorkerStatus(0, "cpu", doing="training", trial=7, step=3, total_steps=9),
                WorkerStatus(1, "cpu", doing="reading data"),
            ]
            hears.workers(statuses)
            hears.trial_evaluated(7, 3, -1.0)
            time.sleep(0.4)
        assert lines[0].startswith("worker 0: trial 7: ")
        assert any(line.startswith("worker 1: reading data") for line in lines)

    def test_every_event_is_passed_on_and_understood(self):
        heard: list[str] = []
        told = tee(lambda event, _: heard.append(event), Listener())
        told.data_reading(1, total=2)
        told.trial_stopped(3, "failed", "why")
        assert heard == ["data_reading", "trial_stopped"]
        assert (
            Doing().after("scoring", {"done": 1, "total": 4}, 0.0).in_words == "exact metrics: number 1 of 4"
        )
        assert {"progress", "workers", "repeat_ended", "on_trial_end"} < set(EVENTS)


def test_a_search_without_a_terminal_tells_its_evaluations_and_keeps_a_log(run, tmp_path):
    write_tiny_study(tmp_path, ALONE, search={"train.lr": {"choices": [1e-3]}}, trials=1)
    words = ("optimize", "--study", "tiny.yaml", "--device", "cpu", "--log-file", "log.txt")
    ran = run(*words)
    assert ran.code == 0 and ran.err == ""
    for what in (r"baseline depth \(1 of 1\)", "trial 0"):
        assert len(re.findall(rf"^{what}: step \d of 4.*evaluated: depth ", ran.out, re.MULTILINE)) == 2
    log = Path("log.txt").read_text()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in log.splitlines())
    assert "dtme-search " in log and "trial 0: step 4 of 4" in log and "trial 0: delta_m" in log

    quiet = run("-q", *words)
    assert quiet.out.startswith("Study tiny: 1 complete; 1 planned.") and "Next:" not in quiet.out
    assert run("show", "--study", "nope", "--log-file", "log.txt").code == 2
    assert Path("log.txt").read_text().startswith(log), "added to, never replaced"
    assert "error: " in Path("log.txt").read_text()
    assert run("--log-file", "/nowhere/log", "studies").err.startswith(
        "dtme-search: --log-file /nowhere/log: "
    )


def test_flags_of_the_program_stand_anywhere():
    assert with_flags_first(["a", "--log-file=x", "-v", "--log-file", "y"]) == [
        *("--log-file=x", "-v", "--log-file", "y", "a"),
    ]


COMMANDS = typer.main.get_command(app).commands
"""Whatever it is called with: -v adds lines on stderr, -q leaves some out, and results stay."""
STUDY = ("--study", "tiny", "--workdir", "copied-runs")
SMALL = ("--set", "data.image_size=[32, 48]", "--set", "data.scenes={num_train: 6, num_test: 3}")
LOOKING = {
    "show": STUDY,
    "studies": ("--workdir", "copied-runs"),
    "export": (*STUDY, "--out", "best.yaml"),
    "report": (*STUDY, "--out", "report.md"),
    "doctor": (),
    "schema": (),
    "worker": (*STUDY, "--device", "cpu"),
    "optimize": ("--study", "tiny.yaml", "--workdir", "copied-runs", "--device", "cpu"),
    "baseline": ("--study", "tiny.yaml", "--workdir", "copied-runs", "--device", "cpu"),
    "plugins": (),
    "tasks": STUDY,
    "study delete": (*STUDY, "--dry-run"),
    "study clean": (*STUDY, "--dry-run"),
    "trial delete": (*STUDY, "--trial", "3", "--dry-run"),
    "cache show": (),
    "cache clear": ("--dry-run",),
    "data check": ("scenes", *SMALL),
    "data show": ("scenes", *SMALL, "--out", "sheet.png"),
    "conflicts": ("run.yaml", "--device", "cpu", "--set", "expansion.start=0.2"),
    "train": ("run.yaml", "--device", "cpu", "--no-baselines"),
}
TRAINING = {"conflicts", "train"}
NOT_AGAIN = {"study rename", "dashboard", "data prepare", "confirm", "evaluate", "predict", "deploy"}
"""Would be another command the second time, never end, or need what a training leaves."""


def test_every_command_is_in_the_table():
    groups = {name: found.commands for name, found in COMMANDS.items() if hasattr(found, "commands")}
    inside = {f"{group} {name}" for group, found in groups.items() for name in found}
    assert set(LOOKING) | NOT_AGAIN == (set(COMMANDS) - set(groups)) | inside


@pytest.mark.parametrize(
    "command", [pytest.param(each, marks=[pytest.mark.slow] * (each in TRAINING)) for each in LOOKING]
)
def test_quiet_and_verbose_mean_the_same_for_every_command(run, study_copy, finished_study, command):
    Path("tiny.yaml").write_text(Path(finished_study.file).read_text())
    Path("run.yaml").write_text(yaml.safe_dump(TINY | {"tasks": {"depth": {}}}))
    words = (*command.split(), *LOOKING[command])
    quiet, plain, verbose = run("-q", *words), run(*words), run("-v", *words)
    assert quiet.code == plain.code == verbose.code
    assert verbose.code in (0, 2)

    def lines(ran) -> set[str]:
        return {re.sub(r"[\d.]+ (ms|GB)|in \d+ s", "", line) for line in ran.out.splitlines()}

    assert lines(quiet) <= lines(plain) <= lines(verbose)
    assert quiet.err == "" and plain.err == ""
    assert f"INFO: dtme-search {__version__}: {command.split()[0]}" in verbose.err
