"""The content of a data set's folders on disk: id lists, files by id, content digests."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import methodcaller
from pathlib import Path
from typing import IO

from dtme_search.errors import DataError

FilesById = Mapping[str, str]
"""Sample id -> file name in one folder."""


def read_ids(path: Path) -> tuple[str, ...]:
    """Ids of a split, one per line, in order.

    Raises:
        DataError: If the file cannot be read, lists nothing, or lists an id twice.
    """
    ids = _read_lines(path)
    if not ids:
        raise DataError(f"{path}: the list of ids must not be empty. Replace the file.")
    repeated = [sample_id for sample_id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(
            f"{path}: ids must be listed once, got {len(repeated)} repeated, '{repeated[0]}' first. "
            "Remove them."
        )
    return tuple(ids)


def read_pairs(path: Path) -> dict[str, str]:
    """Two columns, "ID VALUE" per line; the value may hold spaces.

    Raises:
        DataError: If the file cannot be read, a line has one column, or an id has two values.
    """
    found: dict[str, str] = {}
    for line in _read_lines(path):
        pair = line.split(maxsplit=1)
        if len(pair) != 2:
            raise DataError(f"{path}: every line must be 'ID VALUE', got '{pair[0]}'. Complete it.")
        name, value = pair
        if found.setdefault(name, value) != value:
            raise DataError(
                f"{path}: an id must have one value, got '{found[name]}' and '{value}' for "
                f"'{name}'. Remove one."
            )
    return found


def list_files(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """Id -> file name, from one listing; if two files have one id, the one whose suffix comes first.

    Raises:
        DataError: If the folder cannot be listed.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(
            f"{folder}: must be a readable folder, got '{error.strerror}'. Complete the data set."
        ) from error
    by_suffix: dict[str, dict[str, str]] = {suffix: {} for suffix in suffixes}
    for name in names:
        sample_id, suffix = os.path.splitext(name)
        if suffix.lower() in by_suffix:
            by_suffix[suffix.lower()][sample_id] = name
    return {sample_id: name for suffix in reversed(suffixes) for sample_id, name in by_suffix[suffix].items()}


def content_digest(path: Path) -> str:
    """SHA-256 of the bytes of a file.

    Raises:
        DataError: If it is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise DataError(f"{path}: the file is missing. Complete the data set.") from error
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read ({error.strerror}). Replace it.") from error


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file completely or not at all, however the process ends.

    Args:
        path: Where to write; replaced if it exists.
        write: Writes the content to the open file that it gets.
    """
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        write(file)
    os.replace(partial, path)


def claim_folder(out: Path, stamp: Mapping[str, object]) -> None:
    """Record what a folder is prepared from, and refuse one with other content.

    Args:
        out: Folder, empty or of an earlier call.
        stamp: Identity of the source, as JSON can hold it.

    Raises:
        DataError: If the folder belongs to another source, or contains other files.
    """
    path = out / "prepared.json"
    if path.exists():
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            earlier = None
        if earlier != stamp:
            raise DataError(
                f"{out}: was prepared from another file, mapping or version (see prepared.json), so this "
                "call cannot continue it. Delete the folder, or give --out another name."
            )
    elif any(out.iterdir()):
        raise DataError(
            f"{out}: must be empty or from an earlier call, got other files. Give --out another name."
        )
    write_whole(path, methodcaller("write", json.dumps(stamp, indent=2).encode()))


def name_gaps(
    ids: Sequence[str], files: Mapping[str, FilesById], may_lack: Collection[str] = ()
) -> str | None:
    """Which folders lack files: "depth: 2 of 9 missing (0003, 0007)"; ``None`` if none does.

    Folders that ``may_lack`` some are named only where they lack all.
    """
    gaps = {folder: [i for i in ids if i not in listed] for folder, listed in files.items()}
    gaps = {name: gap for name, gap in gaps.items() if name not in may_lack or len(gap) == len(ids)}
    return (
        "; ".join(
            f"{folder}: {len(gap)} of {len(ids)} missing ({', '.join(gap[:3])}{', ...' * (len(gap) > 3)})"
            for folder, gap in gaps.items()
            if gap
        )
        or None
    )


def _read_lines(path: Path) -> list[str]:
    try:
        # A byte order mark, which some editors write, is not part of the first id.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the file cannot be read ({error}). Replace it.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
