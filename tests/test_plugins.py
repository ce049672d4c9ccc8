"""Parts that users bring: found by name, refused in one line, named in fingerprints by their content."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from pages import ROOT, blocks, command_lines
from tiny import TINY

from dtme_search.config import (
    ModelConfig,
    RunConfig,
    base_config,
    canonical,
    load_run_config,
    load_study_config,
)
from dtme_search.errors import ConfigError
from dtme_search.plugins import Family, brought, identity

PAGE = ROOT / "docs" / "plugins.md"
(PARTS,), (STUDY,), (COMMANDS,) = (blocks(PAGE, language) for language in ("python", "yaml", "bash"))


@pytest.fixture
def parts(tmp_path) -> str:
    file = tmp_path / "my_parts.py"
    file.write_text(PARTS)
    file.chmod(0o644)
    return str(file)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a package of one module with these entry points; nothing of it is imported."""

    def install(
        entries: str, source: str = "raise RuntimeError('imported')", name: str = "made_parts"
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.py").write_text(source)
        info = folder / f"{name}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(entries)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return folder / f"{name}.py"

    return install


NUMBERS = Family("decoders", int, {"one": 1, "two": 2})


def test_a_decoder_of_a_local_file_is_found_with_its_options(parts):
    from dtme_search.models.decoders import find_decoder

    config = ModelConfig(decoder="wave", decoder_options={"wave": {"width": 5}})
    assert find_decoder(config, [parts])[1].width == 5
    with pytest.raises(ConfigError, match=r"^model\.decoder: no decoder is named 'wave'\."):
        find_decoder(config)
    with pytest.raises(ConfigError, match=r"^model\.decoder: .*'wav'\. Did you mean 'wave'\?"):
        find_decoder(ModelConfig(decoder="wav"), [parts])
    wrong = ModelConfig(decoder="wave", decoder_options={"wave": {"widht": 5}})
    with pytest.raises(
        ConfigError, match=r"^model\.decoder_options\.wave: widht is unknown\. Did you mean 'width'"
    ):
        find_decoder(wrong, [parts])


def test_files_are_found_from_the_config_and_from_the_study_that_name_them(tmp_path, parts):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**TINY, "plugins": ["my_parts.py"]}))
    assert load_run_config(str(tmp_path / "run.yaml")).plugins == (parts,)
    study = {
        "name": "waves",
        "plugins": ["my_parts.py"],
        "config": TINY,
        "search": {"model.decoder": {"choices": ["simple", "wave"]}},
    }
    (tmp_path / "waves.yaml").write_text(yaml.safe_dump(study))
    assert base_config(load_study_config(tmp_path / "waves.yaml"), tmp_path).plugins == (parts,)
    with pytest.raises(ConfigError, match=r"search\.plugins: cannot be searched"):
        study["search"]["plugins"] = {"choices": ["a.py"]}
        (tmp_path / "waves.yaml").write_text(yaml.safe_dump(study))
        load_study_config(tmp_path / "waves.yaml")


def test_the_content_of_files_is_in_fingerprints_and_their_place_is_not(tmp_path, parts):
    plain = RunConfig()
    assert "plugins" not in canonical(plain)
    one = canonical(RunConfig(plugins=(parts,)))
    moved = tmp_path / "moved.py"
    moved.write_text(PARTS)
    moved.chmod(0o644)
    assert canonical(RunConfig(plugins=(str(moved),))) == one
    moved.write_text(PARTS + "\n")
    assert canonical(RunConfig(plugins=(str(moved),))) != one


def test_a_package_is_named_where_a_part_of_it_is_used_and_never_imported(package):
    source = package("[dtme_search.decoders]\nwave = made_parts:WAVE\n")
    assert identity([("decoders", "simple")], ()) == []
    (before,) = identity([("decoders", "wave")], ())
    assert before.startswith("package made_parts 1.5 ")
    source.write_text("CHANGED = True")
    assert identity([("decoders", "wave")], ()) != [before]
    assert [(one.name, one.version, one.where) for one in brought("decoders")] == [
        ("wave", "1.5", "made_parts:WAVE")
    ]
    assert canonical(RunConfig(model=ModelConfig(decoder="wave")))["plugins"]
    assert "made_parts" not in sys.modules


def test_a_part_of_a_package_is_imported_when_it_is_asked_for(package):
    package("[dtme_search.decoders]\nthree = made_parts:THREE\n", "THREE = 3")
    assert NUMBERS.find("three", "place") == 3
    assert NUMBERS.find("one", "place") == 1


@pytest.mark.parametrize(
    ("entry", "source", "message"),
    [
        (
            "one = made_parts:THREE",
            "THREE = 3",
            r"'one' must come from one source, got dtme-search itself and package",
        ),
        (
            "three = made_parts:THREE",
            "THREE = 'x'",
            r"made_parts:THREE must be a int, got str\. See docs/plugins",
        ),
        ("three = made_parts:GONE", "", r"cannot be imported, got AttributeError"),
        (
            "three = made_parts:THREE",
            "1 / 0",
            r"cannot be imported, got ZeroDivisionError: division by zero\. Fix",
        ),
        ("three = absent_parts:THREE", "", r"cannot be imported, got ModuleNotFoundError"),
    ],
)
def test_what_is_wrong_with_a_package_is_told_in_one_line(package, entry, source, message):
    package(f"[dtme_search.decoders]\n{entry}\n", source)
    with pytest.raises(ConfigError, match=message) as caught:
        NUMBERS.find(entry.partition(" ")[0], "model.decoder")
    assert "\n" not in str(caught.value)


def test_a_name_that_two_bring_is_told_with_both(package, parts):
    package("[dtme_search.decoders]\nwave = made_parts:WAVE\n")
    with pytest.raises(ConfigError, match=r"got package made_parts \(made_parts:WAVE\) and my_parts\.py \("):
        NUMBERS.find("wave", "model.decoder", [parts])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", r'must hold PLUGINS = \{"decoders": \{"name": part\}\}, got None'),
        ("PLUGINS = 3", r"must hold PLUGINS .* got 3"),
        ("PLUGINS = {'decoders': [1]}", r"must hold PLUGINS"),
        ("PLUGINS = {'decoder': {}}", r"no family is named 'decoder'\. Did you mean 'decoders'"),
        ("1 / 0", r"cannot be run, got ZeroDivisionError"),
        ("def (", r"cannot be run, got SyntaxError"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_one_line(tmp_path, source, message):
    file = tmp_path / "bad.py"
    file.write_text(source)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match=message) as caught:
        NUMBERS.find("three", "model.decoder", [str(file)])
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_may_write_is_not_run(parts, mode):
    Path(parts).chmod(mode)
    with pytest.raises(ConfigError, match=rf"writable by others, .* got mode {mode:o}\. Use `chmod go-w`"):
        NUMBERS.find("wave", "model.decoder", [parts])


def test_a_file_of_somebody_else_is_not_run(parts, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: Path(parts).stat().st_uid + 1)
    with pytest.raises(ConfigError, match=r"must be your own, because it is run, got one of user"):
        NUMBERS.find("wave", "model.decoder", [parts])


def test_a_file_that_is_not_there_is_told():
    with pytest.raises(ConfigError, match=r"plugins: gone\.py must be a Python file, got: No such file"):
        NUMBERS.find("wave", "model.decoder", ["gone.py"])


def test_the_command_lists_what_there_is(package, parts, capsys, monkeypatch):
    from dtme_search.cli.main import main

    package("[dtme_search.losses]\nmine = made_parts:MINE\n")
    monkeypatch.setattr(sys, "argv", ["dtme-search", "plugins", parts])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    shown = capsys.readouterr().out
    for words in (
        ("decoder", "wave", "my_parts.py"),
        ("loss", "mine", "made_parts", "1.5", "made_parts:MINE"),
    ):
        assert all(word in shown for word in words)


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path, parts, monkeypatch, capsys):
    from dtme_search.cli.main import main

    (tmp_path / "waves.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    for line in command_lines(COMMANDS):
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as done:
            main()
        assert not done.value.code, capsys.readouterr().err
    assert "wave" in capsys.readouterr().out


def with_depth(parts=(), **task) -> RunConfig:
    return RunConfig.model_validate({**TINY, "tasks": {"semseg": {}, "depth": task}, "plugins": list(parts)})


@pytest.fixture(scope="module")
def scenes():
    import torch

    from dtme_search.data import build_data

    return build_data(RunConfig.model_validate(TINY).data, ("semseg", "depth"), torch.device("cpu"))


def test_a_loss_of_a_file_scores_the_pixels_that_count(scenes, parts):
    import torch

    from dtme_search.training.choices import as_chosen
    from dtme_search.training.losses import task_loss

    config = with_depth([parts], loss="huber", loss_options={"huber": {"knee": 1.0}})
    spec = as_chosen(scenes, config).specs["depth"]
    prediction = torch.tensor([[[[1.0, 5.0, 0.0]]]])
    target, valid = torch.tensor([[[[1.5, 2.0, 9.0]]]]), torch.tensor([[[[True, True, False]]]])
    # 0.5^2 / 2 = 0.125 and 1 (3 - 1 / 2) = 2.5, over two pixels
    assert task_loss(spec, prediction, target, valid, edge_positive_weight=0.5) == pytest.approx(2.625 / 2)


def test_a_metric_of_a_file_brings_unit_and_direction(scenes, parts, tmp_path):
    import torch

    from dtme_search.metrics import build_meter
    from dtme_search.tasks import load_specs, save_specs
    from dtme_search.training.choices import as_chosen

    specs = as_chosen(scenes, with_depth([parts], metric="delta_1")).specs
    save_specs(tmp_path / "tasks.json", specs)
    spec = load_specs(tmp_path / "tasks.json")["depth"]
    assert spec == specs["depth"]
    assert (spec.unit, spec.higher_is_better, spec.loss) == ("fraction", True, "l1")
    meter = build_meter(spec)
    meter.update(
        torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[1.2, 4.0]]]]), torch.ones(1, 1, 1, 2).bool()
    )
    assert meter.compute() == 0.5


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"loss": "hubr"}, r"^tasks\.depth\.loss: no loss is named 'hubr'\. Did you mean 'huber'\?"),
        (
            {"metric": "delta"},
            r"^tasks\.depth\.metric: no metric is named 'delta'\. Did you mean 'delta_1'\?",
        ),
        (
            {"loss": "cross_entropy"},
            r"^tasks\.depth\.loss must suit targets of kind distance, got 'cross_entropy'",
        ),
        ({"metric": "miou"}, r"^tasks\.depth\.metric must suit targets of kind distance, got 'miou'"),
        (
            {"loss": "huber", "loss_options": {"huber": {"knee": "x"}}},
            r"^tasks\.depth\.loss_options\.huber: knee must be a number, got 'x'",
        ),
    ],
)
def test_a_loss_or_metric_that_cannot_be_is_told(scenes, parts, task, message):
    from dtme_search.training.choices import as_chosen

    with pytest.raises(ConfigError, match=message):
        as_chosen(scenes, with_depth([parts], **task))


def test_what_the_data_set_says_leaves_no_trace_and_what_the_config_says_does():
    plain = canonical(with_depth())
    assert plain["tasks"]["depth"] == {"weight": 1.0, "role": "primary"}
    assert canonical(with_depth(loss_options={"huber": {"knee": 1.0}})) == plain
    assert canonical(with_depth(loss="mse")) != plain != canonical(with_depth(metric="l1"))


def test_the_built_in_names_are_those_that_a_task_may_have():
    from typing import get_args

    from dtme_search.metrics import METRICS
    from dtme_search.tasks import LossName, MetricName
    from dtme_search.training.losses import LOSSES

    assert set(LOSSES) == set(get_args(LossName))
    assert set(METRICS) == set(get_args(MetricName))
