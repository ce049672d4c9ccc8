"""Environments that hold what a user would have after ``pip install``, made of links within a second.

A second copy of torch would take gigabytes. Instead the packages of this environment that our wheel asks for,
and those that these ask for, are linked into a new one. No others are, so what an extra brings is there only
where the extra was asked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = tuple(name for name in PROJECT["optional-dependencies"] if name != "dev")
"""Every extra that users may ask for."""


def asked_for(extras: Iterable[str] = ()) -> list[str]:
    """Requirements of our project with these extras."""
    optional = PROJECT["optional-dependencies"]
    return [*PROJECT["dependencies"], *(text for extra in extras for text in optional[extra])]


def build(source: Path, out: Path, *kinds: str) -> Path:
    """Build what ``source`` holds, a wheel and an archive of sources or one of these kinds, into a folder."""
    targets = [word for kind in kinds for word in ("-t", kind)]
    command = [sys.executable, "-m", "hatchling", "build", *targets, "-d", out]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return out


def required_by(requirements: Iterable[str]) -> dict[str, Distribution]:
    """Installed packages that these requirements lead to, by name."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()

    def follow(text: str, extras: Sequence[str]) -> None:
        wanted = Requirement(text)
        if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            return
        name = canonicalize_name(wanted.name)
        new = {(name, extra) for extra in ("", *wanted.extras)} - seen
        seen.update(new)
        try:
            package = distribution(name)
        except PackageNotFoundError:  # a marker of another platform, or a part that is never needed
            return
        found[name] = package
        for inner in package.requires or () if new else ():
            follow(inner, tuple(wanted.extras))

    for text in requirements:
        follow(text, ())
    return found


@dataclass(frozen=True)
class Environment:
    """An environment in which our wheel is installed, beside what it asks for."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        """Where its packages lie."""
        return next(self.folder.glob("lib/python*/site-packages"))

    def run(self, *words: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``dtme-search`` of this environment in a folder."""
        return self.call(self.folder / "bin" / "dtme-search", *words, cwd=cwd, **variables)

    def call(self, *words: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program without what this process has set for its own Python."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DTME_"))}
        kept |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "DTME_CACHE": str(self.folder / "cache")}
        return subprocess.run(
            list(map(str, words)), cwd=cwd, env=kept | variables, capture_output=True, text=True, timeout=280
        )


def make_environment(folder: Path, wheel: Path, extras: Sequence[str] = ()) -> Environment:
    """Install our wheel into a new environment with these extras."""
    venv.create(folder, symlinks=True)
    made = Environment(folder)
    for package in required_by(asked_for(extras)).values():
        for name in {Path(file).parts[0] for file in package.files or ()} - {".."}:
            target = made.packages / name
            if not target.exists():  # some share a folder, as the parts of CUDA do
                target.symlink_to(Path(str(package.locate_file(name))))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", made.python, "install", "--quiet", "--no-deps",
         "--no-index", wheel],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return made
