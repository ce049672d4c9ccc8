"""Can a search run here? Checks everything it will need and changes nothing."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import stat
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from sqlalchemy import Connection, text

from dtme_search.config import RunConfig, StudyConfig
from dtme_search.data import build_dataset, split_ids
from dtme_search.data.batches.tensors import bytes_per_sample
from dtme_search.data.reading.cache import cache_folder
from dtme_search.errors import ConfigError, DtmeSearchError
from dtme_search.search.storage.database import make_engine, mask_url, storage_errors
from dtme_search.search.storage.studies import check_storage, stored_base_config
from dtme_search.search.study.loading import load_study, storage_url
from dtme_search.search.study.place import DEFAULT_WORKDIR
from dtme_search.search.study.preparation import read_study
from dtme_search.search.workers.places import visible_gpus

SLOW_MS = 100.0
"""With a longer round trip the machinery around a short trial takes noticeable time."""
CLOCK_SECONDS = 30.0
"""If clocks differ by more, start and end times of trials on several machines are misleading."""
SCARCE_GB, LITTLE_GB = 0.5, 5.0
"""Free disk space below which checkpoints will soon fail, and below which they may."""
FEW_HANDLES, MANY_HANDLES = 256, 1024
"""Files that a process must be able to open to read with a loader, and those it may need later."""
FEW_INODES = 10_000
"""A study makes about ten files for each trial."""
FILE_CLOCK_SECONDS = 2.0
"""If the clock of a disk differs by more, new files look old, and the wrong trunks are removed."""
SHARED_MEMORY = Path("/dev/shm")
_ROUND_TRIPS = 9
_CLOCKS = {
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())",
    "mysql": "SELECT UNIX_TIMESTAMP(NOW(6))",
}
"""Seconds since 1970 by the clock of a database server. SQLite uses that of this machine."""

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: What.
        state: Whether a search can run (``ok``), may suffer (``warning``) or cannot run (``problem``).
        found: What was found and, if something is wrong, what to do.
    """

    name: str
    state: State
    found: str


def examine(
    study: str | None = None,
    *,
    storage: str | None = None,
    data_root: str | None = None,
    workdir: Path = DEFAULT_WORKDIR,
) -> list[Check]:
    """Check what a search needs, and what this study needs if one is given.

    Args:
        study: Name of a study, or the path of its YAML.
        storage: Database URL; see :func:`storage_url`.
        data_root: Folder of the data set.
        workdir: Folder for checkpoints, pictures and, by default, the database.
    """
    checks = [_versions(), _devices()]
    config = None
    if study is not None:
        try:
            config, base = _definition(study, storage, data_root, workdir)
            checks.append(
                Check("study", "ok", f"{config.name}: {config.trials} trials of {base.total_steps} steps")
            )
            checks.append(_data(base))
            checks += _shared_memory(base)
        except DtmeSearchError as error:
            checks.append(Check("study", "problem", str(error)))
    url = storage or os.environ.get("DTME_STORAGE")
    if config is not None or url:
        checks += _storage(url or storage_url(config.name if config else "", None, workdir), config)
    if config is not None:
        checks += _privacy(workdir / config.name)
    checks += [
        _folder("workdir", workdir),
        _folder("cache", cache_folder()),
        _temp(),
        _handles(),
        _disk(workdir, config),
        _inodes(workdir),
        _file_clock(workdir),
    ]
    return checks


def can_run(checks: list[Check]) -> bool:
    """Whether nothing prevents a search."""
    return all(check.state != "problem" for check in checks)


def _definition(
    study: str, storage: str | None, data_root: str | None, workdir: Path
) -> tuple[StudyConfig, RunConfig]:
    """Read from the file of a study or, if no file has that name, from the study itself."""
    try:
        return read_study(study, (), data_root)
    except ConfigError:
        try:
            loaded = load_study(study, storage=storage, workdir=workdir)
        except DtmeSearchError:
            loaded = None
        if loaded is None:
            raise
        return loaded.config, stored_base_config(loaded.optuna).with_data_root(data_root)


def _versions() -> Check:
    names = ("dtme-search", "torch", "timm", "optuna", "sqlalchemy")
    found = ", ".join(f"{name} {version(name)}" for name in names)
    return Check("versions", "ok", f"{found}, Python {platform.python_version()}")


def _devices() -> Check:
    cores = os.cpu_count() or 1
    gpus = visible_gpus()
    if not gpus:
        why = "" if torch.version.cuda else " (this torch is built without CUDA)"
        return Check(
            "devices", "warning", f"no GPU{why}; {cores} cores, torch uses {torch.get_num_threads()}"
        )
    described = []
    for number, name in enumerate(gpus):
        facts = torch.cuda.get_device_properties(number)
        described.append(f"GPU {name}: {facts.name}, {facts.total_memory / 2**30:.0f} GB")
    return Check("devices", "ok", f"{'; '.join(described)}; {cores} cores")


def _data(base: RunConfig) -> Check:
    try:
        dataset = build_dataset(base.data)
        splits = split_ids(dataset, base.data, final=False)
    except DtmeSearchError as error:
        return Check("data", "problem", str(error))
    missing = sorted(set(base.tasks) - set(dataset.tasks))
    if missing:
        return Check("data", "problem", f"{base.data.name} has no labels for {', '.join(missing)}")
    counts = f"{len(splits.train)} images to train on, {len(splits.holdout)} in the hold-out"
    return Check("data", "ok", f"{base.data.name}: {counts}")


def _storage(url: str, config: StudyConfig | None) -> Iterator[Check]:
    shown = mask_url(url)
    try:
        has_studies = check_storage(url)
        if not has_studies and shown.startswith("sqlite"):
            yield Check("storage", "ok", f"{shown} will be created by optimize")
            return
        engine = make_engine(url)
        try:
            with storage_errors(url), engine.connect() as connection:
                standing = _standing(connection, config) if has_studies else ", no study yet"
                yield _latency(connection, shown + standing)
                if engine.dialect.name in _CLOCKS:
                    yield _clock(connection, _CLOCKS[engine.dialect.name])
        finally:
            engine.dispose()
    except DtmeSearchError as error:
        yield Check("storage", "problem", str(error))


def _standing(connection: Connection, config: StudyConfig | None) -> str:
    if config is None:
        return ""
    number = connection.scalar(
        text("SELECT study_id FROM studies WHERE study_name = :name"), {"name": config.name}
    )
    if number is None:
        return f", no study {config.name} yet"
    count = connection.scalar(text("SELECT count(*) FROM trials WHERE study_id = :id"), {"id": number})
    return f", study {config.name} with {count} trials"


def _latency(connection: Connection, where: str) -> Check:
    seconds = []
    for _ in range(_ROUND_TRIPS):
        started = time.perf_counter()
        connection.execute(text("SELECT 1")).scalar()
        seconds.append(time.perf_counter() - started)
    median_ms = 1000 * statistics.median(seconds)
    state: State = "ok" if median_ms <= SLOW_MS else "warning"
    return Check("storage", state, f"{where}; a round trip takes {median_ms:.1f} ms")


def _clock(connection: Connection, query: str) -> Check:
    before = datetime.now(UTC).timestamp()
    there = float(connection.execute(text(query)).scalar_one())
    after = datetime.now(UTC).timestamp()
    # The server read its clock at some moment between our two readings.
    difference = max(0.0, there - after, before - there)
    state: State = "ok" if difference <= CLOCK_SECONDS else "warning"
    advice = (
        "" if state == "ok" else "; times of trials on several machines will be wrong: set the clocks (NTP)"
    )
    return Check("clock", state, f"{difference:.1f} s from the database's{advice}")


def _folder(name: str, folder: Path) -> Check:
    existing = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Check(name, "problem", f"{existing} cannot be written: {error.strerror}. Give another folder.")
    note = "can be written" if existing == folder.absolute() else f"will be created in {existing}"
    return Check(name, "ok", f"{folder.absolute()} {note}")


def _privacy(folder: Path) -> Iterator[Check]:
    """A study's folder is created private; one that already existed keeps its permissions."""
    mode = stat.S_IMODE(folder.stat().st_mode) if folder.is_dir() else 0
    if mode & 0o077:
        cure = f"unless you meant that: chmod go= {folder}"
        yield Check("privacy", "warning", f"{folder} is open to other users (mode {mode:o}); {cure}")


def _disk(workdir: Path, config: StudyConfig | None) -> Check:
    free = shutil.disk_usage(_existing(workdir)).free / 2**30
    wanted = LITTLE_GB
    if config is not None and config.reuse.trunks:
        wanted = max(wanted, config.reuse.trunk_limit_gb)
    state: State = "ok" if free >= wanted else "warning" if free >= SCARCE_GB else "problem"
    advice = (
        ""
        if state == "ok"
        else f"; checkpoints and trunks may take {wanted:.0f} GB. Free some, or lower reuse.trunk_limit_gb."
    )
    return Check("disk", state, f"{free:.1f} GB free{advice}")


def _inodes(workdir: Path) -> Check:
    """A disk can have free space and still no room for another file (inodes)."""
    left = {}
    for folder in (workdir, cache_folder()):
        disk = os.statvfs(_existing(folder))
        if disk.f_files:  # some file systems have no fixed number
            left[folder.absolute()] = disk.f_favail
    scarce = [
        f"{folder} has room for {count} more files" for folder, count in left.items() if count < FEW_INODES
    ]
    if not scarce:
        return Check("inodes", "ok", "room for many files")
    return Check("inodes", "warning", f"{'; '.join(scarce)}. Delete small files, or give another folder.")


def _file_clock(workdir: Path) -> Check:
    """Network disks stamp files with the clock of their server."""
    existing = _existing(workdir)
    try:
        before = time.time()
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x")
            file.flush()
            there, after = os.fstat(file.fileno()).st_mtime, time.time()
    except OSError as error:
        return Check("file clock", "warning", f"{existing} takes no file: {error.strerror}")
    difference = max(0.0, there - after, before - there)
    state: State = "ok" if difference <= FILE_CLOCK_SECONDS else "warning"
    advice = "" if state == "ok" else "; set the clocks of this machine and its file server (NTP)"
    return Check("file clock", state, f"{difference:.1f} s from that of {existing}{advice}")


def _temp() -> Check:
    try:
        return _folder("temp", Path(tempfile.gettempdir()))
    except FileNotFoundError:
        return Check("temp", "problem", "no folder for temporary files is writable. Set TMPDIR to one.")


def _handles() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MANY_HANDLES:
        return Check("handles", "ok", "a process may open as many files as it needs")
    found = f"a process may open {soft} files"
    if hard != resource.RLIM_INFINITY and hard < FEW_HANDLES:
        found += f", a loader needs {FEW_HANDLES}: training reads in its own process, which is slower"
    return Check("handles", "warning", f"{found}. Run ulimit -n {MANY_HANDLES} before the command.")


def _shared_memory(base: RunConfig) -> Iterator[Check]:
    """Batches from the processes of a loader wait there: two per process, and one on its way."""
    workers = base.data.loader_workers
    if base.data.storage == "device" or not workers or not SHARED_MEMORY.is_dir():
        return
    try:
        known = build_dataset(base.data).tasks
    except DtmeSearchError:
        return  # reported already
    specs = {task: known[task] for task in base.tasks if task in known}
    batch = max(base.train.batch_size, base.train.eval_batch_size)
    wanted = (2 * workers + 1) * batch * bytes_per_sample(specs, base.data.image_size) / 1e6
    free = shutil.disk_usage(SHARED_MEMORY).free / 1e6
    found = f"{SHARED_MEMORY} has {free:.0f} MB free, {workers} processes of a loader want {wanted:.0f} MB"
    if free >= wanted:
        yield Check("shared memory", "ok", found)
    else:
        cure = "Give more (docker: --shm-size), or lower data.loader_workers or train.batch_size."
        yield Check("shared memory", "warning", f"{found}. {cure}")


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    path = folder.absolute()
    return next((parent for parent in (path, *path.parents) if parent.exists()), path)
