"""Every command and every YAML of the documentation is one that this program takes."""

from __future__ import annotations

import re
import shlex

import pytest
import typer
from pages import PAGES, ROOT, blocks, command_lines, shell_commands

from dtme_search.cli import main  # noqa: F401  (it adds all commands)
from dtme_search.cli.app import app
from dtme_search.config import base_config, load_study_config

PROGRAM = typer.main.get_command(app)


def commands(lines: list[str], program: str) -> list[str]:
    return [line for line in lines if line.split(maxsplit=1)[0] == program]


def examples() -> list[str]:
    """Examples in the help texts, without where their output goes."""
    leaves = [*PROGRAM.commands.values(), *PROGRAM.commands["data"].commands.values()]
    found = [text for leaf in (PROGRAM, *leaves) for text in re.findall(r"dtme-search .*", leaf.epilog or "")]
    return [text.partition(" > ")[0] for text in found]


SHOWN = [
    pytest.param(line, id=f"{page.name}: {line}")
    for page in PAGES
    for line in commands(shell_commands(page), "dtme-search")
] + [pytest.param(line, id=f"help: {line}") for text in examples() for line in command_lines(text)]


@pytest.mark.parametrize("line", SHOWN)
def test_a_command_is_one_that_the_program_takes(line):
    command, words = PROGRAM, shlex.split(line)[1:]
    while hasattr(command, "commands"):
        assert words, f"{line} names no command"
        assert words[0] in command.commands, f"{line}: no such command"
        command, words = command.commands[words[0]], words[1:]
    # Parses every option and argument, and runs nothing.
    command.make_context(command.name, words)


def test_there_is_something_to_check():
    assert len(SHOWN) > 15


def test_the_table_of_commands_is_complete():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    groups = {name: found.commands for name, found in PROGRAM.commands.items() if hasattr(found, "commands")}
    inside = {f"{group} {name}" for group, found in groups.items() for name in found}
    assert named == (set(PROGRAM.commands) - set(groups)) | inside


def test_the_reference_of_fields_is_fresh():
    """If not: dtme-search schema reference > docs/configuration.md."""
    from dtme_search.config.reference import reference

    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == reference()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_and_pictures_that_are_linked_are_there(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_are_there(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in commands(shell_commands(page), "make"):
        assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE), line


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(block, id=f"{page.name} {number}")
        for page in PAGES
        for number, block in enumerate(blocks(page, "yaml"))
    ],
)
def test_a_yaml_is_a_study(tmp_path, text):
    from dtme_search.search.space.known_points import enqueued_point
    from dtme_search.search.space.search_space import SearchSpace

    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    study = load_study_config(str(tmp_path / "study.yaml"))
    space = SearchSpace.from_study(study, base_config(study, tmp_path), num_layers=12)
    assert all(space.config(enqueued_point(space, point)) for point in study.enqueue)


def test_messages_of_the_faq_are_those_of_the_program():
    text = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "dtme_search").rglob("*.py"))
    # Adjacent literals are one text; names and numbers in a message stand for any.
    source = re.sub(r'"\s+f?"', "", source)
    table = text.partition("## The dashboard")[0]
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(messages) > 8
    system = {"Address already in use"}
    missing = [
        message
        for message in messages
        if message not in system
        and not all(part in source for part in re.split(r" Did you mean|'\w+'|\d+", message))
    ]
    assert missing == []
