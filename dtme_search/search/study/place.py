"""Where a study is, and the commands that refer to it."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from dtme_search.search.storage.database import mask_url

DEFAULT_WORKDIR = Path("dtme-runs")
_READ_THE_FILE = ("optimize", "baseline")
"""Commands that need the YAML of a study; the others get everything from the database."""


@dataclass(frozen=True)
class Place:
    """A study as the next command has to refer to it.

    Attributes:
        name: Name of the study.
        workdir: Its default folder.
        storage: Database URL, if one was given; a URL in DTME_STORAGE need not be repeated.
        file: Its YAML, if it is not a shipped one.
        overrides: ``path=value`` strings (``--set``) that it was last started with.
    """

    name: str
    workdir: Path = DEFAULT_WORKDIR
    storage: str | None = None
    file: str | None = None
    overrides: tuple[str, ...] = ()

    def command(self, verb: str, *words: str) -> str:
        """A command that works when copied; passwords are masked.

        Example:
            >>> Place("demo").command("export", "--best", "--out", "best.yaml")
            'dtme-search export --study demo --best --out best.yaml'
            >>> Place("own", Path("my runs"), file="/data/own.yaml").command("optimize")
            "dtme-search optimize --study /data/own.yaml --workdir 'my runs'"
        """
        study, changes = self.name, []
        if verb in _READ_THE_FILE:
            study = _from_here(self.file) if self.file else study
            changes = [word for override in self.overrides for word in ("--set", override)]
        return shlex.join(["dtme-search", verb, "--study", study, *self._where(), *words, *changes])

    def train(self, file: str, *words: str) -> str:
        """The command that trains an exported file."""
        where = [] if self.workdir == DEFAULT_WORKDIR else ["--workdir", str(self.workdir)]
        return shlex.join(["dtme-search", "train", file, *where, *words])

    def _where(self) -> list[str]:
        words = [] if self.workdir == DEFAULT_WORKDIR else ["--workdir", str(self.workdir)]
        said = {} if "DTME_STORAGE" in os.environ.get("DTME_MOVED", "").split() else os.environ
        if self.storage and self.storage != said.get("DTME_STORAGE"):
            words += ["--storage", mask_url(self.storage)]
        return words


def _from_here(file: str) -> str:
    """The shortest form of the path that works in this folder."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
