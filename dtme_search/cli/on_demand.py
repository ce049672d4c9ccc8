"""Commands by name: the module of one is imported when it is used, and none for the help of the program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

commands = typer.Typer(rich_markup_mode=None)
"""Where the modules of commands register them."""

COMMANDS = {
    "train": ("training", "Train a config on all training ids, then test it."),
    "evaluate": ("training", "Measure a trained network on the test split or the hold-out."),
    "conflicts": ("training", "Measure where the tasks of a config conflict."),
    "deploy": ("deploying", "Write a trained network as an ONNX or torch file, or for a hub."),
    "tasks": ("likeness", "Show which tasks are alike, and which auxiliary tasks helped."),
    "plugins": ("plugins", "List parts from your own files and installed packages."),
    "predict": ("predicting", "Draw what a trained network sees in your pictures."),
    "optimize": ("searching", "Run a study, or resume it where it stopped."),
    "worker": ("searching", "Join a study, from this machine or another."),
    "doctor": ("searching", "Check whether a search can run here."),
    "baseline": ("searching", "Train the single-task baselines of a study."),
    "confirm": ("searching", "Repeat the leaders of a study with further seeds."),
    "export": ("searching", "Write the config of a trial for `dtme-search train`."),
    "studies": ("searching", "List shipped studies and configs, or studies already started."),
    "schema": ("searching", "Print the JSON schema of a study or a config."),
    "show": ("viewing", "Show the front, the best trial and the failures."),
    "report": ("viewing", "Write a report on a study as one file to share."),
    "dashboard": ("viewing", "Serve a study's figures, notes and files to a browser."),
    "data": ("datasets", "Check, view and prepare data sets."),
    "study": ("managing", "Rename, clean or delete a study."),
    "trial": ("managing", "Delete trials."),
    "cache": ("managing", "Show or clear what is kept between runs."),
}
"""Name -> module and first sentence of the help, in the order in which they are listed."""


class _OnDemand(Mapping[str, Any]):
    def __getitem__(self, name: str) -> Any:
        module, _ = COMMANDS[name]
        import_module(f"dtme_search.cli.{module}")
        return typer.main.get_group(commands).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class OnDemandGroup(TyperGroup):
    """The program: has every command, and imports those that are asked for."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = _OnDemand()  # type: ignore[assignment]

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """List names and first sentences; only a command's own help needs its module."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in COMMANDS.items()])
