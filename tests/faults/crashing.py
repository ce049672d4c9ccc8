"""Every moment at which the death of a process, or a disk in trouble, could be told from the outside.

A *point* is what a process does to its folder: a file opened to be written, half of a write, fsync, rename,
unlink, mkdir, a statement of the database, a commit. A killed process leaves what is on disk and nothing
else, so the folder is photographed before each point of one run, instead of running once more for each; that
a real SIGKILL leaves the same is tested beside it.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy.engine import Engine

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.utime")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Point:
    """One of them.

    Attributes:
        number: Its place in the life of the process.
        site: What is done, without numbers: the same for every trial.
        photo: Number of the photograph of the folder just before it.
    """

    number: int
    site: str
    photo: int


class Shim:
    """Calls ``act(number, site)`` before everything that this process does to ``folder`` from now on."""

    def __init__(self, folder: Path, act: Callable[[int, str], None]) -> None:
        self._folder, self._act = str(folder), act
        self._inside, self._count = False, 0
        sys.addaudithook(self._hear)
        self._open, io.open = io.open, self._opened  # type: ignore[assignment]
        fsync = os.fsync

        def fsynced(handle: int) -> None:
            self._at("fsync")
            fsync(handle)

        os.fsync = fsynced
        sqlalchemy.event.listen(Engine, "before_cursor_execute", self._statement)
        sqlalchemy.event.listen(Engine, "commit", lambda _: self._at("commit"))

    def _at(self, site: str) -> None:
        if self._inside:
            return
        self._inside = True
        try:
            self._count += 1
            self._act(self._count - 1, site)
        finally:
            self._inside = False

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if self._inside or event not in (*_CHANGES, "open"):
            return
        if event == "open" and not (isinstance(given[2], int) and given[2] & _WRITES):
            return
        names = [os.fsdecode(name) for name in given[:2] if isinstance(name, (str, bytes, os.PathLike))]
        if names and any(name.startswith(self._folder) for name in names):
            self._at(f"{event} {plain(names[0])}")

    def _opened(self, file: Any, mode: str = "r", *given: Any, **named: Any) -> Any:
        opened = self._open(file, mode, *given, **named)
        if self._inside or not set(mode) & set("wax+") or not str(file).startswith(self._folder):
            return opened
        return Torn(opened, lambda: self._at(f"write {plain(str(file))}"))

    def _statement(self, _1: Any, _2: Any, statement: str, *_: Any) -> None:
        words = statement.split()
        if words and words[0] in ("INSERT", "UPDATE", "DELETE"):
            self._at(f"{words[0]} {words[1 if words[0] == 'UPDATE' else 2]}")


class Torn:
    """An open file of which the 1st, 2nd, 4th, 8th ... write are interrupted in the middle.

    torch writes a checkpoint in a thousand pieces: nothing new comes with most of them.
    """

    def __init__(self, file: Any, in_the_middle: Callable[[], None]) -> None:
        self._file, self._in_the_middle, self._count = file, in_the_middle, 0

    def write(self, content: Any) -> int:
        self._count += 1
        if self._count & (self._count - 1):
            return int(self._file.write(content))
        half = len(content) // 2
        self._file.write(content[:half])
        self._file.flush()
        self._in_the_middle()
        self._file.write(content[half:])
        return len(content)

    def __enter__(self) -> Torn:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def plain(path: str) -> str:
    """The name of a file without what differs from run to run."""
    name = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{12,}", "*", Path(path).name)
    return re.sub(r"\d+", "#", name)


@dataclass(frozen=True)
class Album:
    """Photographs of a folder before each point of one run in it."""

    folder: Path
    points: list[Point]

    def develop(self, photo: int, into: Path) -> None:
        """Put the folder back as it was."""
        shutil.copytree(self.folder / str(photo), into)


def photographed(work: Callable[[], object], folder: Path, album: Path) -> Album:
    """Let ``work`` work in ``folder``, in a process of its own, and take a photograph before each point.

    Equal photographs are taken once.
    """
    album.mkdir()
    folder.mkdir(exist_ok=True)
    points: list[Point] = []
    last: list[Any] = [None, -1]

    def act(number: int, site: str) -> None:
        seen = look(folder)
        if seen != last[0]:
            last[:] = [seen, last[1] + 1]
            shutil.copytree(folder, album / str(last[1]))
        points.append(Point(number, site, last[1]))

    def watched() -> None:
        Shim(folder, act)
        work()
        act(len(points), "end")
        (album / "points.json").write_text(json.dumps([[p.number, p.site, p.photo] for p in points]))

    error = in_child(watched, album / "error")
    assert error is None, error
    return Album(album, [Point(*each) for each in json.loads((album / "points.json").read_text())])


def look(folder: Path) -> list[tuple[str, int, int]]:
    """What can have changed in a folder."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.name.endswith("-shm"):  # mapped memory, made anew by the next process
            with suppress(FileNotFoundError):
                facts = path.stat()
                size, time = (0, 0) if path.is_dir() else (facts.st_size, facts.st_mtime_ns)
                found.append((str(path), size, time))
    return found


def killed(work: Callable[[], object], folder: Path, is_here: Callable[[int, str], bool]) -> bool:
    """Let ``work`` die by SIGKILL at the first point, number and site, of which ``is_here`` says so.

    Whether it came so far.
    """

    def act(number: int, site: str) -> None:
        if is_here(number, site):
            os.kill(os.getpid(), signal.SIGKILL)

    def doomed() -> None:
        Shim(folder, act)
        work()

    return in_child(doomed, folder.with_name("error")) == f"ended with {-signal.SIGKILL}"


def counted(work: Callable[[], object], folder: Path, seen: Path) -> str | None:
    """Let ``work`` work and write down how many points it came to; its traceback, or ``None``."""
    last = [0]

    def act(number: int, _: str) -> None:
        last[0] = number + 1

    def watched() -> None:
        Shim(folder, act)
        work()
        seen.write_text(str(last[0]))

    return in_child(watched, folder.with_name("error"))


def in_trouble(
    work: Callable[[], object], folder: Path, number: int, errno: int, lasting: bool
) -> str | None:
    """Let a point fail as a disk makes it fail; the traceback of what ``work`` raised, or ``None``.

    Args:
        work: What is done.
        folder: Where.
        number: The point.
        errno: ``ENOSPC`` or ``EIO``.
        lasting: Whether every later point fails as well.
    """

    def act(current: int, site: str) -> None:
        if not (current == number or (lasting and current > number)):
            return
        if site.split()[0] in ("INSERT", "UPDATE", "DELETE", "commit"):
            said = (
                "database or disk is full" if os.strerror(errno).startswith("No space") else "disk I/O error"
            )
            raise sqlalchemy.exc.OperationalError(site, {}, sqlite3.OperationalError(said))
        if not site.startswith(("os.remove", "os.rmdir")):  # a full disk lets files go
            raise OSError(errno, os.strerror(errno), str(folder))

    def hindered() -> None:
        Shim(folder, act)
        work()

    return in_child(hindered, folder.with_name("error"))


def in_child(work: Callable[[], object], error: Path, seconds: float = 300.0) -> str | None:
    """Run in a forked process, because importing everything takes longer; its traceback, or ``None``."""

    def run() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            work()
        except BaseException:
            text = traceback.format_exc()
            with suppress(BaseException):
                error.write_text(text)
            os._exit(1)
        os._exit(0)

    error.unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return "hangs"
    if process.exitcode == 0:
        return None
    return error.read_text() if error.exists() else f"ended with {process.exitcode}"
