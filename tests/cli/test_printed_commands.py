"""Own data from any folder, and every command that is printed works when it is copied."""

from __future__ import annotations

import re
import shlex
import socketserver
from pathlib import Path

import pytest
import yaml
from own_folder import DESCRIPTION, write_own
from tiny import TINY, with_paths, write_tiny_study

from dtme_search.config import load_run_config
from dtme_search.errors import ConfigError
from dtme_search.reporting import write_report
from dtme_search.reporting.document import to_markdown
from dtme_search.reporting.page import study_note
from dtme_search.reporting.study_data import read_study_data
from dtme_search.search import load_study

SHORT = {"train.num_steps": 2, "train.num_evaluations": 1, "tasks": {"distance": {}, "outline": {}}}


def commands(text: str) -> list[list[str]]:
    """Words of all commands in a text: a line of its own, or the end of a sentence."""
    found = [shlex.split(words) for words in re.findall(r"dtme-search ([a-z][^`\n]*)", text)]
    return [words for words in found if len(words) > 1]  # a verb alone is mentioned, not offered


@pytest.fixture
def own_study(tmp_path) -> Path:
    """A study of own data, all files in a folder ``there``; commands are given beside it."""
    there = tmp_path / "there"
    there.mkdir()
    write_own(there, 12, DESCRIPTION)
    data = {"name": "folder", "image_size": [32, 48], "folder": {"description": "orchard.yaml"}}
    study = {
        "name": "own",
        "config": with_paths(TINY, {**SHORT, "data": data}),
        "trials": 1,
        "search": {"train.lr": {"choices": [0.001, 0.002]}},
        "enqueue": [{"train.lr": 0.002}],
    }
    (there / "own.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    return there / "own.yaml"


@pytest.mark.slow
def test_own_data_go_all_the_way_from_another_folder(run, own_study, monkeypatch, tmp_path):
    monkeypatch.setattr(socketserver.BaseServer, "serve_forever", lambda *_: None)
    begun = run("optimize", "--study", "there/own.yaml", "--workdir", "my runs")
    assert begun.code == 0, begun.err
    printed = commands(begun.out.partition("Next:")[2])
    assert [words[0] for words in printed] == ["confirm", "export", "train", "dashboard"]
    loaded = load_study("own", workdir=Path("my runs"))
    report = write_report(loaded, Path("report.md")).read_text(encoding="utf-8")
    note = to_markdown(study_note(read_study_data(loaded)))
    written = [words for text in (report, note) for words in commands(text)]
    assert {"optimize", "export", "train", "report"} <= {words[0] for words in written}
    for words in [*printed, *written, ["doctor", "--study", "own", "--workdir", "my runs"]]:
        monkeypatch.chdir(tmp_path)
        done = _looked(run, words) if words[0] == "dashboard" else run(*map(_fewer_seeds, words))
        assert done.code == 0, f"{words}: {done.err}"
    # The export and the folder of a run are used from anywhere.
    monkeypatch.chdir(own_study.parent / "orchard")
    assert load_run_config("../../best.yaml").data.folder.description == str(
        own_study.parent / "orchard.yaml"
    )
    (checkpoint,) = (tmp_path / "my runs" / "train").glob("best-*/checkpoint.pt")
    measured = run("evaluate", checkpoint.parent)
    assert measured.code == 0, measured.err


def _fewer_seeds(word: str) -> str:
    """Three leaders with three seeds are two too many for a test."""
    return "1" if word == "3" else word


def _looked(run, words):
    return run(*words, "--port", "8765")


def test_a_path_in_a_file_begins_where_the_file_lies(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "run.yaml").write_text(
        "data: {name: folder, root: ../photos, folder: {description: own.yaml}}\n"
        "model: {checkpoint: weights/vit.pt}\n"
    )
    monkeypatch.chdir(tmp_path)
    config = load_run_config("sub/run.yaml")
    assert config.data.folder.description == str(tmp_path / "sub" / "own.yaml")
    assert config.data.root == str(tmp_path / "photos")
    assert config.model.checkpoint == str(tmp_path / "sub" / "weights" / "vit.pt")
    # What the command line says begins where the command is given.
    set_here = load_run_config("sub/run.yaml", ("data.folder.description=mine.yaml",))
    assert set_here.data.folder.description == str(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("state", "fields", "options"),
    [
        ("not begun", {}, ("--timeout", "0")),
        ("infeasible", {"limits": {"param_overhead_percent": -1.0}}, ()),
        ("in another database", {}, ("--storage", "sqlite:///elsewhere.db")),
    ],
)
def test_what_show_and_refusals_print_can_be_copied(run, tmp_path, monkeypatch, state, fields, options):
    monkeypatch.setattr(socketserver.BaseServer, "serve_forever", lambda *_: None)
    tiny = {"tasks": {"depth": {}}, "train.num_steps": 2, "train.num_evaluations": 1}
    search = {"train.weight_decay": {"choices": [0.0, 0.1]}}
    write_tiny_study(tmp_path, tiny, trials=1, search=search, **fields)
    place = ("--workdir", "runs", *(options if "--storage" in options else ()))
    run("optimize", "--study", "tiny.yaml", "--workdir", "runs", *options)
    texts = [run("show", "--study", "tiny", *place), run("export", "--study", "tiny", *place, "-o", "x.yaml")]
    found = [words for done in texts for words in commands(f"{done.out}\n{done.err}")]
    assert found, state
    for words in found:
        done = _looked(run, words) if words[0] == "dashboard" else run(*map(_fewer_seeds, words))
        assert done.code == 0, f"{words}: {done.err}"


def test_an_unknown_description_says_where_it_was_looked_for(tmp_path):
    (tmp_path / "run.yaml").write_text("data: {name: folder, folder: {description: gone.yaml}}\n")
    from dtme_search.data import build_dataset

    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path / 'gone.yaml'}: cannot be read")):
        build_dataset(load_run_config(str(tmp_path / "run.yaml")).data)
