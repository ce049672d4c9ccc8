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
from dtme_search.plugins import FAMILIES, Family, brought, identity

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
            r"'one' must be brought by one, got dtme-search itself and package",
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
            r"cannot be imported, got ZeroDivisionError: division by zero\. Mend",
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

    package("[dtme_search.samplers]\nmine = made_parts:MINE\n")
    monkeypatch.setattr(sys, "argv", ["dtme-search", "plugins", parts])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    shown = capsys.readouterr().out
    for words in (
        ("decoder", "wave", "my_parts.py"),
        ("sampler", "mine", "made_parts", "1.5", "made_parts:MINE"),
    ):
        assert all(word in shown for word in words)
    assert set(FAMILIES) >= {"decoders", "samplers"}


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
