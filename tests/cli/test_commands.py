"""What the commands print and leave behind, on runs of a second."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
import yaml
from rich.console import Console
from tiny import TINY, write_tiny_study

from dtme_search.cli import on_demand
from dtme_search.cli.app import app
from dtme_search.cli.progress import TerminalListener
from dtme_search.cli.render import print_frame, print_table
from dtme_search.cli.screen import Screen
from dtme_search.config import find_file, load_run_config, shipped
from dtme_search.reporting import trials_table
from dtme_search.token_space import ConflictReport
from dtme_search.training import Progress
from dtme_search.version import __version__

COMMANDS = typer.main.get_command(app).commands
GROUPS = {name: command for name, command in COMMANDS.items() if hasattr(command, "commands")}
LEAVES = {(name,): command for name, command in COMMANDS.items() if name not in GROUPS} | {
    (group, name): command for group, found in GROUPS.items() for name, command in found.commands.items()
}


TASKS = {"semseg": {}, "depth": {}}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a tiny study and a tiny config, of two tasks."""
    write_tiny_study(tmp_path, {"tasks": TASKS}, trials=2, enqueue=["unexpanded", "paper"])
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(TINY | {"tasks": TASKS}))
    return tmp_path


def is_plain(text: str) -> bool:
    """No colours, no bars, nothing that a log file would choke on."""
    return "\x1b" not in text and "\r" not in text and "━" not in text


def table_lines(text: str) -> list[str]:
    """Lines of tables; other lines may be as long as they like, the terminal wraps them."""
    lines = text.splitlines()
    rules = [index for index, line in enumerate(lines) if line.startswith("──")]
    return [line for rule in rules for line in lines[rule - 1 : rule + 4]]


class TestHelp:
    def test_every_command_stands_there_in_one_whole_line(self, run):
        ran = run("--help")
        assert ran.code == 0
        listed = dict(re.findall(r"^  (\w+)  +(.+)$", ran.out.split("Commands:")[1], re.MULTILINE))
        assert list(listed) == list(COMMANDS)
        assert all(line.endswith(".") and not line.endswith("...") for line in listed.values())
        assert "dtme-search optimize --study demo" in ran.out

    @pytest.mark.parametrize("words", LEAVES, ids=" ".join)
    def test_each_command_has_an_example_and_explains_its_options(self, run, words):
        ran = run(*words, "-h")
        assert ran.code == 0
        assert f"Example:  dtme-search {' '.join(words)}" in ran.out
        assert "\n\n\n" not in ran.out
        undocumented = [each.name for each in LEAVES[words].params if not getattr(each, "help", None)]
        assert undocumented == []

    def test_without_a_command_there_is_help(self, run):
        assert "Commands:" in "".join(run()[1:])

    def test_it_answers_within_half_a_second(self):
        """In seconds of the processor, the best of three: other programs may run beside this one."""
        code = "import sys; sys.argv = ['dtme-search', '--help']; from dtme_search.cli import main; main()"
        seconds = []
        for _ in range(3):
            before = os.times()
            subprocess.run(
                [sys.executable, "-c", code],
                cwd=Path(__file__).parents[2],
                stdout=subprocess.DEVNULL,
                check=True,
            )
            after = os.times()
            seconds.append(
                after.children_user - before.children_user + after.children_system - before.children_system
            )
        assert min(seconds) < 0.5

    def test_version(self, run):
        assert run("--version") == (0, f"dtme-search {__version__}\n", "")


class TestWhatIsThere:
    def test_studies(self, run):
        ran = run("studies")
        assert ran.code == 0
        assert is_plain(ran.out)
        for name in (*shipped("studies"), *shipped("configs")):
            assert re.search(rf"^{name} ", ran.out, re.MULTILINE)
        assert all(len(line.rstrip()) <= 80 for line in table_lines(ran.out))

    def test_a_broken_study_is_listed_with_its_mistake(self, run, tmp_path):
        (tmp_path / "studies").mkdir()
        (tmp_path / "studies" / "mine.yaml").write_text("name: mine\n")
        ran = run("studies")
        assert ran.code == 0
        assert re.search(r"^mine +broken: ", ran.out, re.MULTILINE)

    @pytest.mark.parametrize(("of", "kind"), [("study", "studies"), ("config", "configs")])
    def test_schema(self, run, of, kind):
        ran = run("schema", of)
        schema = json.loads(ran.out)
        assert ran.code == 0
        assert schema["additionalProperties"] is False
        assert all("description" in field or "$ref" in field for field in schema["properties"].values())
        for path in shipped(kind).values():
            values = json.loads(json.dumps(yaml.safe_load(path.read_text())))
            assert set(values) <= set(schema["properties"])
            if importlib.util.find_spec("jsonschema"):
                import jsonschema

                jsonschema.Draft202012Validator(schema).validate(values)


class TestOptimize:
    def test_a_line_for_each_result_then_the_front_and_what_to_type_next(self, run, place):
        words = ("optimize", "--study", "tiny.yaml", "--device", "cpu", "--workdir", "runs")
        ran = run(*words, "--data-root", "unused")
        assert (ran.code, ran.err) == (0, "")
        assert is_plain(ran.out)
        trained = re.findall(
            r"^baseline (\w+): \w+ \S+ \S+ \(no-image prior .*, trained", ran.out, re.MULTILINE
        )
        assert trained == list(TASKS)
        assert re.findall(r"^trial (\d): delta_m [-+]\d+\.\d\d % \(semseg ", ran.out, re.MULTILINE) == [
            "0",
            "1",
        ]
        assert "Front: delta_m (maximize) and overhead (minimize)" in ran.out
        assert re.search(r"^trial +delta_m +semseg +depth +(paired +)?overhead", ran.out, re.MULTILINE)
        assert "Not to be trusted" in ran.out  # ten steps teach nothing
        assert ran.out.splitlines()[-3:] == [
            "  dtme-search export --study tiny --workdir runs --best --force --out best.yaml",
            "  dtme-search train best.yaml --workdir runs",
            "  dtme-search dashboard --study tiny --workdir runs",
        ]

        again = run(*words, "--quiet")
        assert (again.code, again.err) == (0, "")
        assert not re.search(r"^baseline ", again.out, re.MULTILINE)
        assert again.out.startswith("Study tiny: 2 complete; 2 planned.")
        more = run(*words, "--trials", 3)
        assert re.findall(r"^baseline (\w+): .*, known$", more.out, re.MULTILINE)[0] == "semseg"
        assert re.findall(r"^trial (\d): ", more.out, re.MULTILINE) == ["2"]

    def test_a_time_limit_is_no_failure(self, run, place):
        ran = run("optimize", "--study", "tiny.yaml", "--timeout", 0)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith("Study tiny: 2 waiting; 2 planned.\n")
        assert "no trial is finished" in ran.out

    def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(self, run, place, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(TerminalListener, "trial_started", lambda *_: os.kill(os.getpid(), signal.SIGINT))
            ran = run("optimize", "--study", "tiny.yaml", "--workers", 1)
        assert ran.code == 130
        assert re.search(r"^trial 0: interrupted: stopped at step 1 of 10$", ran.out, re.MULTILINE)
        assert ran.out.endswith("Stopped. Run the same command again to resume from the last checkpoint.\n")
        again = run("optimize", "--study", "tiny.yaml", "--workers", 1)
        assert again.code == 0
        assert "2 complete" in again.out

    @pytest.mark.parametrize("words", [("baseline", "--study", "tiny.yaml"), ("train", "run.yaml")])
    def test_ctrl_c_in_a_baseline(self, run, place, monkeypatch, words):
        with monkeypatch.context() as patch:
            patch.setattr(
                TerminalListener, "baseline_started", lambda *_: os.kill(os.getpid(), signal.SIGINT)
            )
            ran = run(*words)
        assert ran.code == 130
        warned, stopped = ran.err.splitlines()
        assert warned == "WARNING: stopping after this step with a checkpoint; repeat to stop immediately"
        assert stopped == (
            "dtme-search: stopped at step 1 of 10. "
            "Run the same command again to resume from the last checkpoint."
        )
        assert run(*words).code == 0

    def test_baseline_prints_all_of_them(self, run, place):
        first, second = (run("baseline", "--study", "tiny.yaml") for _ in range(2))
        assert first.code == second.code == 0
        assert first.out.count(", trained in ") == second.out.count(", known") == 2
        for text in (first.out, second.out):
            assert re.search(r"^semseg +miou +\d+\.\d\d % +\d+\.\d\d % +holdout +10$", text, re.MULTILINE)
            assert re.search(r"^depth +rmse +\d\.\d{4} m +\d\.\d{4} m ", text, re.MULTILINE)


class TestShow:
    @pytest.fixture
    def show(self, run, finished_study):
        return lambda *words: run("show", "--study", "tiny", "--workdir", finished_study.workdir, *words)

    def test_table(self, show, finished_study):
        ran = show()
        assert (ran.code, ran.err) == (0, "")
        assert is_plain(ran.out)
        assert "Study tiny: 5 complete, 1 failed; 5 planned." in ran.out
        assert re.search(r"^ +1 +[-+]\d+\.\d\d .* M\w* *$", ran.out, re.MULTILINE)  # a trial that grew
        assert re.search(r"^ +2 +DivergedError: step \d: the loss of task", ran.out, re.MULTILINE)
        assert "Not to be trusted" not in ran.out
        assert all(len(line.rstrip()) <= 80 for line in table_lines(ran.out))
        assert f"export --study tiny --workdir {finished_study.workdir} --best --out best.yaml" in ran.out

    def test_csv_parses_back(self, show, finished_study):
        parsed = pd.read_csv(io.StringIO(show("--format", "csv").out))
        table = trials_table(finished_study.study)
        assert list(parsed.columns) == list(table.columns)
        assert list(parsed["trial"]) == list(range(6))
        np.testing.assert_allclose(parsed["delta_m_percent"], table["delta_m_percent"].astype(float))
        assert list(parsed["on_front"]) == list(table["on_front"])

    def test_json_parses_back(self, show, finished_study):
        rows = json.loads(show("--format", "json").out)
        assert [row["trial"] for row in rows] == list(range(6))
        assert rows[2]["delta_m_percent"] is None
        assert rows[2]["state"] == "failed"
        assert rows[1]["layers"] == trials_table(finished_study.study)["layers"][1]

    def test_a_study_without_trials(self, run, place):
        write_tiny_study(place)
        run("optimize", "--study", "tiny.yaml", "--timeout", 0)
        assert run("show", "--study", "tiny").out == (
            "Study tiny: no trial yet; 3 planned.\nNext:\n  dtme-search optimize --study tiny.yaml\n"
        )
        assert json.loads(run("show", "--study", "tiny", "--format", "json").out) == []
        assert run("show", "--study", "tiny", "--format", "csv").out.startswith("trial,state,delta_m_percent")

    def test_the_next_commands_find_the_same_database(self, run, finished_study):
        url = f"sqlite:///{finished_study.workdir / 'tiny' / 'study.db'}"
        assert (
            f"  dtme-search dashboard --study tiny --storage {url}\n"
            in run("show", "--study", "tiny", "--storage", url).out
        )


class TestTables:
    @staticmethod
    def printed(width: int, draw) -> str:
        file = io.StringIO()
        draw(Console(file=file, width=width, markup=False, highlight=False))
        return file.getvalue()

    def test_four_tasks_and_twelve_layers_fit_into_80_columns(self):
        front = pd.DataFrame(
            {
                "trial": [117],
                "delta_m_percent": [-12.345],
                **{f"gain_{task}_percent": [-23.45] for task in ("semseg", "depth", "normals", "edge")},
                "param_overhead_percent": [0.4771],
                "step_cost_ratio": [2.345],
                "start": [0.25],
                "layers": ["MMBBEEMMBB.."],
            }
        )
        text = self.printed(80, lambda console: print_frame(console, "Front", front))
        (line,) = [line for line in text.splitlines() if "117" in line]
        cells = [
            "117",
            "-12.35",
            *["-23.4", "-23.4", "-23.4", "-23.4"],
            "0.477",
            "2.35",
            "0.25",
            "MMBBEEMMBB..",
        ]
        assert line.split() == cells
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= 80

    def test_a_narrow_terminal_wraps_words_and_keeps_numbers(self):
        rows = [("1", "-12.34 %", "a reason that is longer than the line it stands in")]
        text = self.printed(40, lambda console: print_table(console, "T", ("trial", "gain", "error"), rows))
        assert re.search(r"^ +1 +-12\.34 % +a reason", text, re.MULTILINE)
        assert "it stands in" in " ".join(text.split())
        assert max(map(len, text.splitlines())) <= 40

    def test_brackets_are_no_markup(self):
        rows = [("[bold]", "no file [/data/x]")]
        text = self.printed(80, lambda _: print_table(Screen().console, "[red]", ("a", "b"), rows))
        assert text == ""
        file = io.StringIO()
        screen = Screen()
        screen.__dict__["console"] = Console(file=file, markup=False, emoji=False)
        print_table(screen.console, "[red]", ("a", "b"), rows)
        screen.say("[/x] :bug:")
        assert all(each in file.getvalue() for each in ("[red]", "[bold]", "no file [/data/x]", "[/x] :bug:"))


class TestBars:
    """On a terminal; what a log file gets is in the tests of the commands."""

    @pytest.fixture
    def terminal(self):
        file = io.StringIO()
        screen = Screen()
        screen.__dict__["console"] = Console(file=file, force_terminal=True, width=80, markup=False)
        return screen, file

    def frames(self, file: io.StringIO) -> list[str]:
        return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue()))

    def test_two_bars_in_two_lines(self, terminal):
        screen, file = terminal
        losses = {"semseg": 1.234, "depth": 0.5, "normals": 12.3, "edge": 0.1}
        with TerminalListener(screen) as listener:
            listener.data_reading(3, 10)
            listener._bars.refresh()  # as it happens ten times a second
            listener.baseline_started("normals", 3, 4)
            listener._bars.refresh()
            listener.progress(Progress(20, 60_000, losses))
            listener._bars.refresh()
            listener.trial_started(7, 2, 64, {})
            listener._bars.refresh()
            listener.progress(Progress(0, 60_000, {}, "measuring conflicts 2/8"))
            listener.trial_stopped(7, "failed", "out of memory")
        frames = self.frames(file)
        assert any(re.match(r"reading data +\S+ +3/10", frame) for frame in frames)
        assert any(re.match(r"baseline normals \(3 of 4\) +\S+ +0/\?", frame) for frame in frames)
        assert any("20/60000" in frame and "semseg 1.23" in frame for frame in frames)
        assert any(re.match(r"trials +\S+ +2/64", frame) for frame in frames)
        assert any(re.match(r"trial 7 .*measuring conflicts 2/8", frame) for frame in frames)
        assert "trial 7: failed: out of memory" in [frame.rstrip() for frame in frames]
        assert max(map(len, frames)) <= 80

    def test_quiet_draws_nothing(self, terminal):
        loud, file = terminal
        screen = Screen(quiet=True)
        screen.__dict__["console"] = loud.console
        with TerminalListener(screen) as listener:
            listener.trial_started(0, 0, 4, {})
            listener.trial_stopped(0, "failed", "reason")
        assert file.getvalue() == ""


class TestOneConfig:
    def test_an_export_trains_and_evaluates(self, run, finished_study, tmp_path):
        words = ("export", "--study", "tiny", "--workdir", finished_study.workdir)
        assert run(*words, "--out", "best.yaml") == (0, "best.yaml\n", "")
        front = run(*words, "--pareto", "--out", "front")
        assert sorted(front.out.split()) == sorted(map(str, Path("front").glob("*.yaml")))

        trained = run("train", "best.yaml", "--device", "cpu")
        assert (trained.code, trained.err) == (0, "")
        assert is_plain(trained.out)
        assert "test split, 4 images" in trained.out
        assert re.search(
            r"^delta_m [-+]\d+\.\d\d % on the test split, against single-task", trained.out, re.MULTILINE
        )
        assert re.search(r"^edge +ods_f +\d+\.\d\d % *$", trained.out, re.MULTILINE)
        assert "ods_f is shown only for comparison with publications." in trained.out
        checkpoint = Path(re.search(r"^Checkpoint: (.+)$", trained.out, re.MULTILINE)[1])
        metrics = json.loads(checkpoint.with_name("metrics.json").read_text())
        assert metrics["split"] == "test"

        known = run("train", "best.yaml", "--device", "cpu", "--no-baselines")
        assert "delta_m" not in known.out
        for place in (checkpoint, checkpoint.parent):
            evaluated = run("evaluate", place, "--device", "cpu")
            assert evaluated.code == 0
            assert values(evaluated.out) == values(known.out) == values(trained.out)
        held_out = run("evaluate", checkpoint, "--split", "holdout")
        assert "holdout split, " in held_out.out
        assert run("evaluate", checkpoint.parents[1]).err.endswith(f"Did you mean {checkpoint.parent}?\n")

    def test_set_changes_one_field(self, run, place):
        assert (
            run("train", "run.yaml", "--no-baselines", "--set", "train.num_steps=3", "--set", "seed=7").code
            == 0
        )
        (file,) = (place / "dtme-runs" / "train").glob("run-*/config.yaml")
        written = load_run_config(str(file))
        assert (written.train.num_steps, written.seed) == (3, 7)

    def test_conflicts(self, run, place):
        ran = run("conflicts", "run.yaml", "--out", "seen/here", "--set", "expansion.start=0.2")
        assert (ran.code, ran.err) == (0, "")
        assert is_plain(ran.out)
        report = ConflictReport.load(place / "seen" / "here" / "conflicts.json")
        assert report.num_layers == 3
        assert report.table() in ran.out
        assert all(sentence in ran.out for sentence in report.summary().splitlines())
        assert re.search(r"^layer +operation +modulate +expand +streams$", ran.out, re.MULTILINE)
        assert (place / "seen" / "here" / "conflicts.png").read_bytes().startswith(b"\x89PNG")

    def test_data_check(self, run):
        sizes = ("data.image_size=[32, 48]", "data.scenes.num_train=6", "data.scenes.num_test=3")
        ran = run("data", "check", "scenes", *(word for size in sizes for word in ("--set", size)))
        assert (ran.code, ran.err) == (0, "")
        assert is_plain(ran.out)
        assert re.search(r"^train +6 +6\nholdout \(of train\) +1 +1$", ran.out, re.MULTILINE)
        assert re.search(r"^ +32 +48 +9$", ran.out, re.MULTILINE)
        assert re.search(r"^depth +\d.* rmse *$", ran.out, re.MULTILINE)
        assert "None" not in ran.out
        assert ran.out.endswith("Every file was read.\n")
        assert all(len(line.rstrip()) <= 80 for line in table_lines(ran.out))


def values(text: str) -> list[str]:
    """Metric of each task as printed."""
    return re.findall(r"^\w+ +(?:miou|rmse|mean_angle|edge_f) +(\S+ \S+)", text, re.MULTILINE)


def test_flags_work_behind_the_command_too(run, place):
    for words in (("-q", "studies"), ("studies", "-q"), ("studies", "--verbose")):
        assert run(*words).code == 0


def test_shipped_configs_are_found_by_the_commands():
    assert find_file("demo", "configs").is_file()


def test_the_help_of_the_program_is_that_of_its_commands():
    """It is listed without them, and each module registers what the list says, and no more."""
    assert {name: help_ for name, (_, help_) in on_demand.COMMANDS.items()} == {
        name: command.get_short_help_str(200) for name, command in COMMANDS.items()
    }
    assert typer.main.get_group(on_demand.commands).commands.keys() == on_demand.COMMANDS.keys()
