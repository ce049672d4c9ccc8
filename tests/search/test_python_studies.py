"""A study by name, by YAML as text or path, or built in Python: the same study, however it is given."""

import os
import shlex
from pathlib import Path

import pytest
from tiny import SEARCH, TINY, write_tiny_study

import dtme_search
from dtme_search import StudyConfig, load_study, optimize
from dtme_search.config import load_study_config
from dtme_search.errors import ConfigError
from dtme_search.search import confirm, join, read_study, train_baselines
from dtme_search.search.space.known_points import first_points
from dtme_search.search.study.loading import study_name
from dtme_search.search.study.preparation import space_of

FIELDS = {
    "name": "tiny",
    "trials": 1,
    "enqueue": ["unexpanded"],
    "sampler": {"name": "random"},
    "objectives": {"delta_m_percent": "maximize"},
}


def built(**fields) -> StudyConfig:
    return StudyConfig.model_validate({**FIELDS, "search": SEARCH, "config": TINY, **fields})


def test_it_is_the_same_study_however_it_is_given(tmp_path):
    file = write_tiny_study(tmp_path, name="tiny", **{key: FIELDS[key] for key in FIELDS if key != "name"})
    by_file = read_study(file)
    assert read_study(Path(file)) == by_file
    study, base = read_study(built())
    assert base == by_file[1]
    assert study.search == by_file[0].search
    assert {study_name(source) for source in ("tiny", file, Path(file), built())} == {"tiny"}


def test_a_shipped_study_may_be_named_as_a_path():
    assert load_study_config(Path("demo")) == load_study_config("demo")


def test_paths_of_a_study_built_in_python_begin_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = {"name": "nyud", "root": "pictures", "image_size": [32, 48]}
    study = load_study_config(built(config={**TINY, "data": data}))
    monkeypatch.chdir("/")
    assert read_study(study)[1].data.root == str(tmp_path / "pictures")


def test_what_is_wrong_in_one_is_told_by_its_name():
    with pytest.raises(ConfigError, match=r"^study tiny: search\.train\.speed: "):
        read_study(built(search={"train.speed": {"choices": [1, 2]}}))


@pytest.mark.slow
def test_a_study_built_in_python_runs_and_the_command_line_goes_on_with_it(tmp_path, monkeypatch):
    from dtme_search.cli.main import main

    monkeypatch.chdir(tmp_path)
    runs = str(tmp_path / "runs")
    rows = train_baselines(built(), workdir=runs, device="cpu")
    done = optimize(built(), workdir=runs, device="cpu")
    assert list(load_study(built(), workdir=runs).results()["trial"]) == [0]
    assert done.place.file == str(tmp_path / "runs/tiny/study.yaml")
    assert {row.fingerprint for row in done.records.baselines()} == {row.fingerprint for row in rows.values()}
    assert confirm(built(), workdir=runs, top=1, seeds=1, new_baselines=False, device="cpu").name == "tiny"
    monkeypatch.chdir("/")
    command = shlex.split(done.place.command("optimize"))[1:]
    words = ["dtme-search", *command, "--trials", "2", "--workers", "1", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert len(load_study(Path(command[2]), workdir=Path(runs)).results()) == 2
    assert join(built(), workdir=runs, device="cpu").name == "tiny"  # none is left
    dtme_search.export_best(done, os.fspath(tmp_path / "best.yaml"), force=True)
    assert (tmp_path / "best.yaml").is_file()


def test_the_command_to_go_on_repeats_what_was_set(tmp_path):
    """Without it the study would search something else and be refused."""
    optimize(built(), workdir=tmp_path, device="cpu", timeout=0, overrides=["train.lr=0.01"])
    place = load_study(built(), workdir=tmp_path).place
    assert place.command("optimize").endswith("--set train.lr=0.01")
    assert "--set" not in place.command("show")
    optimize(
        built(),
        workdir=tmp_path,
        device="cpu",
        timeout=0,
        overrides=shlex.split(place.command("optimize"))[-1:],
    )


def test_the_smallest_possible_study_needs_no_enqueue(tmp_path):
    """Only what somebody names must be in the space."""
    fields = {"name": "small", "config": TINY, "search": {"expansion.num_images": {"choices": [6, 3]}}}
    study = StudyConfig.model_validate(fields)
    space = space_of(*read_study(study))
    assert first_points(space, study) == [{"expansion.num_images": 6}]  # nothing grows: unexpanded, no paper
    named = StudyConfig.model_validate({**fields, "enqueue": ["unexpanded", "paper"]})
    with pytest.raises(ConfigError, match="the paper's setting needs expansion"):
        first_points(space, named)
    whole = built(enqueue=["unexpanded", "paper"])
    values = {name: getattr(whole, name) for name in whole.model_fields_set if name != "enqueue"}
    default = StudyConfig.model_validate(values)
    space = space_of(*read_study(whole))
    assert first_points(space, default) == first_points(space, whole) and len(first_points(space, whole)) == 2
