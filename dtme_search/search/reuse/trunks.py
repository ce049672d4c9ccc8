"""Trunks on disk: unexpanded training that trials share, and the conflicts measured on it.

Every stretch of a trunk has a folder named by its fingerprint, with a lock, at most one snapshot, and the
conflict reports measured at its end. Deleting any of it costs time, never correctness.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from dtme_search.config.study import ReuseConfig
from dtme_search.errors import DtmeSearchError
from dtme_search.search.locks import held
from dtme_search.search.reuse.context import TrialContext
from dtme_search.search.storage.rows import TrunkRow
from dtme_search.search.workspace import Workspace, private_folder
from dtme_search.token_space import ConflictReport
from dtme_search.training.checkpoint import load_snapshot, save_snapshot
from dtme_search.training.identity import RunContext, analysis_fingerprint, trunk_fingerprint
from dtme_search.training.trunk import Snapshot

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrunkStore:
    """Snapshots and conflict reports of a study; the least recently used are deleted first.

    Attributes:
        root: Folder of all of them.
        limit_bytes: Space they may take; a stretch in use stays even above it.
        share_steps: Whether trials fork from snapshots.
        share_reports: Whether trials take over conflict reports.
    """

    root: Path
    limit_bytes: int
    share_steps: bool = True
    share_reports: bool = True

    @classmethod
    def of_study(cls, workspace: Workspace, reuse: ReuseConfig) -> TrunkStore:
        """The store in a study's folder, following its ``reuse`` section."""
        return cls(workspace.trunks, int(reuse.trunk_limit_gb * 2**30), reuse.trunks, reuse.conflicts)

    def folder(self, fingerprint: str) -> Path:
        """Folder of one stretch."""
        return self.root / fingerprint

    def snapshot(self, fingerprint: str) -> Path | None:
        """Its snapshot, if there is one."""
        return next(self.folder(fingerprint).glob("snapshot-*.pt"), None)

    def lock(self, fingerprint: str) -> FileLock:
        """Held by whoever trains the stretch, reads its snapshot, or measures conflicts at its end."""
        return FileLock(private_folder(self.folder(fingerprint)) / "in_use.lock")

    def tidy(self) -> None:
        """Delete the least recently used until the rest fits, and whatever killed processes left behind."""
        files = sorted((path for path in self.root.glob("*/*") if path.suffix != ".lock"), key=_last_used)
        excess = sum(_size(path) for path in files) - self.limit_bytes
        for path in files:
            if excess <= 0 and path.suffix != ".partial":
                continue
            try:
                with FileLock(path.parent / "in_use.lock", timeout=0):
                    size = _size(path)
                    path.unlink(missing_ok=True)
            except Timeout:
                continue
            excess -= size
            _log.info("removed %s (%.1f MB)", path, size / 1e6)


class TrialTrunk:
    """The trunk of one trial, as its trainer sees it (``training.trunk.Trunk``).

    Args:
        context: The trial.
        store: Where trunks are kept; that of its study by default.
    """

    def __init__(self, context: TrialContext, store: TrunkStore | None = None) -> None:
        self.context = context
        self.store = store or TrunkStore.of_study(context.workspace, context.study.reuse)
        self._fingerprints: dict[int, str] = {}

    def steps(self, after: int, until: int) -> Sequence[int]:
        if not self.store.share_steps:
            return ()
        steps = [step for step in self.context.expansion_steps if after < step <= until]
        known = [index for index, step in enumerate(steps) if self.store.snapshot(self._fingerprint(step))]
        return steps[known[-1] :] if known else steps

    def is_busy(self) -> bool:
        """Whether another run is training the stretch that this one needs next."""
        config = self.context.config
        for step in self.steps(0, (config.growth_steps or (0,))[0] or config.total_steps):
            fingerprint = self._fingerprint(step)
            if self.store.snapshot(fingerprint) is None:
                lock = self.store.lock(fingerprint)
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    return True
                lock.release()
                return False
        return False

    @contextmanager
    def claim(self, step: int) -> Iterator[Snapshot | None]:
        fingerprint = self._fingerprint(step)
        with self._hold(fingerprint, f"the trunk up to step {step}"):
            path = self.store.snapshot(fingerprint)
            snapshot = None if path is None else load_snapshot(path, fingerprint, self.context.data.device)
            if path is not None and snapshot is not None:
                path.touch()
            yield snapshot

    def keep(self, step: int, begun_at: int, seconds: float, snapshot: Snapshot) -> None:
        fingerprint = self._fingerprint(step)
        row = TrunkRow(
            fingerprint=fingerprint,
            trial=self.context.number,
            from_step=begun_at,
            to_step=step,
            seconds=seconds,
            created_at=datetime.now(UTC),
        )
        try:
            save_snapshot(self.store.folder(fingerprint), fingerprint, snapshot)
        except OSError as error:
            _log.warning("no snapshot of the trunk at step %d: %s; continuing without it.", step, error)
        self.context.records.save_trunk(self.context.study.name, row)
        self.store.tidy()

    def report(
        self, step: int, tasks: tuple[str, ...], measure: Callable[[], ConflictReport]
    ) -> tuple[ConflictReport, float]:
        if not self.store.share_reports:
            return measure(), 0.0
        with self._hold(self._fingerprint(step), f"the conflicts at step {step}"):
            known = self.known_report(step, tasks)
            if known is not None:
                return known
            started = time.perf_counter()
            report = measure()
            self._keep_report(self._report_path(step, tasks), report, time.perf_counter() - started)
        return report, 0.0

    def known_report(self, step: int, tasks: tuple[str, ...]) -> tuple[ConflictReport, float] | None:
        """Conflicts of ``tasks`` at a step and the seconds they took, if somebody has measured them."""
        path = self._report_path(step, tasks)
        if not self.store.share_reports or not path.is_file():
            return None
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            known = ConflictReport.from_json(saved["report"]), float(saved["seconds"])
            path.touch()
        except (OSError, ValueError, KeyError, TypeError, DtmeSearchError) as error:
            _log.warning("%s cannot be read (%s); the conflicts are measured again.", path, error)
            path.unlink(missing_ok=True)
            return None
        return known

    def _keep_report(self, path: Path, report: ConflictReport, seconds: float) -> None:
        partial = path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps({"seconds": seconds, "report": report.to_json()}), encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            _log.warning("the conflict report is not kept for other trials: %s", error)

    def _report_path(self, step: int, tasks: tuple[str, ...]) -> Path:
        name = f"conflicts-{analysis_fingerprint(self.context.config, tasks)}.json"
        return self.store.folder(self._fingerprint(step)) / name

    def _fingerprint(self, step: int) -> str:
        if step not in self._fingerprints:
            config, data = self.context.config, self.context.data
            arithmetic = RunContext.of(config, data.device, self.context.devices)
            self._fingerprints[step] = trunk_fingerprint(config, step, data.fingerprint, arithmetic)
        return self._fingerprints[step]

    @contextmanager
    def _hold(self, fingerprint: str, what: str) -> Iterator[None]:
        context = self.context
        lock, waits = self.store.lock(fingerprint), context.waits
        with held(lock, context.should_stop, lambda: context.on_wait(what), on_waited=waits.append):
            yield


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
