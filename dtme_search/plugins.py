"""Parts from users: named by the entry points of installed packages, or in a local file.

A part is an entry of a registry, for example a ``DecoderKind`` among decoders. A package names its parts in
``pyproject.toml``::

    [project.entry-points."dtme_search.decoders"]
    wave = "wave_parts:WAVE"

A file listed in the field ``plugins`` of a study or config contains a table of them::

    PLUGINS = {"decoders": {"wave": WAVE}}

Nothing is imported until a part that is not built in is needed.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from dtme_search.errors import ConfigError, DtmeSearchError, nearest
from dtme_search.paths import expanded

FAMILIES = {
    "datasets": "data set",
    "backbones": "backbone",
    "decoders": "decoder",
    "operations": "operation",
    "losses": "loss",
    "metrics": "metric",
    "schedules": "schedule",
    "combine": "way to combine",
    "samplers": "sampler",
    "trackers": "tracker",
}
"""Families of parts, and the word for one of each. Entry points are in the group dtme_search.<family>."""

TABLE = "PLUGINS"
"""Name of the table in a local file: family -> name -> part."""

PartT = TypeVar("PartT")


@dataclass(frozen=True)
class Brought:
    """A part that is not built in.

    Attributes:
        family: Key of ``FAMILIES``.
        name: Its name in YAML.
        package: The package that offers it, or the name of the file.
        version: Version of the package; for a file the beginning of its digest.
        where: ``module:name``, or the path of the file.
        load: Imports it.
    """

    family: str
    name: str
    package: str
    version: str
    where: str
    load: Callable[[], object]

    def __str__(self) -> str:
        return f"{FAMILIES[self.family]} '{self.name}' of {self.package}"


class Family(Mapping[str, PartT], Generic[PartT]):
    """A registry: its built-in parts as a mapping, and those from users by :meth:`find`.

    Args:
        name: Key of ``FAMILIES``.
        kind: What every part is.
        built_in: Name -> part.
        guarded: Returns a part from users that tells which rule it breaks; its words name the part.
    """

    def __init__(
        self,
        name: str,
        kind: type[PartT],
        built_in: Mapping[str, PartT],
        guarded: Callable[[PartT, str], PartT] = lambda part, _: part,
    ) -> None:
        self.name = name
        self.kind = kind
        self.guarded = guarded
        self._built_in = dict(built_in)

    def __getitem__(self, name: str) -> PartT:
        return self._built_in[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._built_in)

    def __len__(self) -> int:
        return len(self._built_in)

    def find(self, name: str, place: str, files: Sequence[str] = ()) -> PartT:
        """The part that a field names.

        Args:
            name: Value of the field.
            place: The field, for messages.
            files: ``plugins`` of the config.

        Raises:
            ConfigError: If there is none or more than one, it cannot be imported, or it is something else.
        """
        found = one_brought(self.name, name, place, files, built_in=tuple(self))
        if found is None:
            return self[name]
        part = loaded(found)
        if not isinstance(part, self.kind):
            raise ConfigError(
                f"{found}: {found.where} must be a {self.kind.__name__}, got {type(part).__name__}. "
                "See docs/plugins.md."
            )
        if not hasattr(options := getattr(part, "options", None), "model_fields") and options is not None:
            raise ConfigError(
                f"{found}: its options must be a class derived from dtme_search.config.Section, "
                f"got {options!r}. See docs/plugins.md."
            )
        return self.guarded(part, str(found))


def one_brought(
    family: str, name: str, place: str, files: Sequence[str], built_in: Sequence[str]
) -> Brought | None:
    """Who offers the part ``name``; ``None`` if it is built in.

    Raises:
        ConfigError: If nobody does, or more than one.
    """
    every = brought(family, files)
    found = [one for one in every if one.name == name]
    owners = ["dtme-search itself"] * (name in built_in) + [f"{one.package} ({one.where})" for one in found]
    if len(owners) > 1:
        raise ConfigError(
            f"{place}: {FAMILIES[family]} '{name}' must come from one source, got {' and '.join(owners)}. "
            "Rename or remove one."
        )
    if not owners:
        known = (*built_in, *(one.name for one in every))
        raise ConfigError(f"{place}: no {FAMILIES[family]} is named '{name}'.{nearest(name, known)}")
    return found[0] if found else None


def loaded(found: Brought) -> object:
    """Import a part.

    Raises:
        ConfigError: If that fails for any reason.
    """
    try:
        return found.load()
    except DtmeSearchError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{found}: {found.where} cannot be imported, got {type(error).__name__}: {error}. "
            "Fix or update the package."
        ) from error


def brought(family: str, files: Sequence[str] = ()) -> tuple[Brought, ...]:
    """Parts of one family from users, in the order of packages and files.

    Raises:
        ConfigError: If a file cannot be used.
    """
    return (*_installed(tuple(sys.path)).get(family, ()), *(one for one in _local(files, family)))


def identity(used: Iterable[tuple[str, str]], files: Sequence[str]) -> list[str]:
    """Identifies the content of parts from users: packages that offer one of ``used``, and all files.

    Empty if everything is built in. Packages are identified by name, version and a digest of the sources of
    their module, files by their content; nothing is imported.

    Args:
        used: Family and name of each part.
        files: ``plugins`` of the config.

    Raises:
        ConfigError: If a file cannot be used.
    """
    installed = _installed(tuple(sys.path))
    packages = {
        f"{one.package} {one.version} {_digest_of_module(one.where.partition('.')[0].partition(':')[0])}"
        for family, name in used
        for one in installed.get(family, ())
        if one.name == name
    }
    return sorted(packages) + sorted(f"file {_digest(read_own(file))}" for file in files)


def read_own(file: str | Path) -> bytes:
    """Content of a file that is about to be run as code.

    Raises:
        ConfigError: If it does not exist, belongs to somebody else, or others may write to it.
    """
    try:
        with expanded(file).open("rb") as opened:
            status = os.fstat(opened.fileno())
            content = opened.read()
    except OSError as error:
        raise ConfigError(f"plugins: {file} must be a Python file, got: {error.strerror}.") from error
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        raise ConfigError(
            f"plugins: {file} must be your own, because it is run, got one of user {status.st_uid}. Copy it."
        )
    if os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"plugins: {file} must not be writable by others, because it is run, "
            f"got mode {stat.S_IMODE(status.st_mode):o}. Use `chmod go-w`."
        )
    return content


@functools.lru_cache(maxsize=4)
def _installed(path: tuple[str, ...]) -> Mapping[str, tuple[Brought, ...]]:  # noqa: ARG001
    """Parts of installed packages by family. Takes milliseconds, and is cached until the path changes."""
    found = entry_points()
    return {
        family: tuple(_of_package(family, entry) for entry in found.select(group=f"dtme_search.{family}"))
        for family in FAMILIES
    }


def _of_package(family: str, entry: EntryPoint) -> Brought:
    package, version = (entry.dist.name, entry.dist.version) if entry.dist else (entry.module, "")
    return Brought(family, entry.name, f"package {package}", version, entry.value, entry.load)


def _local(files: Sequence[str], family: str) -> Iterator[Brought]:
    for file in files:
        content = read_own(file)
        for name, part in _table(file, content).get(family, {}).items():
            version = _digest(content)[:12]
            yield Brought(family, name, Path(file).name, version, str(file), lambda part=part: part)  # type: ignore[misc]


def _table(file: str, content: bytes) -> Mapping[str, Mapping[str, object]]:
    """Table of a local file, which is run once for each content."""
    where = f"plugins: {file}"
    name = f"dtme_search_plugin_{_digest(content)[:16]}"
    if name not in sys.modules:
        module = ModuleType(name)
        module.__file__ = str(file)
        sys.modules[name] = module  # dataclasses and pydantic look up their module there
        try:
            exec(compile(content, str(file), "exec"), module.__dict__)
        except Exception as error:
            del sys.modules[name]
            raise ConfigError(f"{where} cannot be run, got {type(error).__name__}: {error}.") from error
    table = getattr(sys.modules[name], TABLE, None)
    if not isinstance(table, Mapping) or not all(isinstance(parts, Mapping) for parts in table.values()):
        raise ConfigError(
            f'{where} must hold {TABLE} = {{"decoders": {{"name": part}}}}, got {table!r}. '
            "See docs/plugins.md."
        )
    for family in table:
        if family not in FAMILIES:
            raise ConfigError(
                f"{where}: {TABLE}: no family is named '{family}'.{nearest(str(family), FAMILIES)}"
            )
    return table


def _digest_of_module(name: str) -> str:
    """Digest of the sources of a package or module, found without importing it."""
    spec = find_spec(name)
    if spec is None:
        return "absent"
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    paths = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    if not folders and spec.origin is not None and Path(spec.origin).is_file():
        paths = [Path(spec.origin)]
    return _digest(b"".join(path.read_bytes() for path in paths))[:16]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
