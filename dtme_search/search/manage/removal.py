"""What deleting and cleaning remove: listed first, carried out once the user agrees."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from dtme_search.errors import StorageError
from dtme_search.search.storage.database import storage_errors
from dtme_search.search.storage.optuna_internals import id_of_study, storage_of
from dtme_search.search.storage.removal import count_rows, delete_trials
from dtme_search.search.storage.studies import default_storage_url
from dtme_search.search.study.lifecycle import put_right
from dtme_search.search.study.loading import LoadedStudy, load_study, storage_url
from dtme_search.search.study.place import DEFAULT_WORKDIR
from dtme_search.search.study.presence import at_work, forget_dead
from dtme_search.search.study.states import trial_states
from dtme_search.search.study.weights import spare_weights
from dtme_search.search.trial.heartbeat import GRACE_SECONDS
from dtme_search.search.trial.retries import first_number, retry_history
from dtme_search.search.workspace import Workspace
from dtme_search.training.disk import WEIGHTS


@dataclass(frozen=True)
class Removal:
    """What would be removed.

    Attributes:
        what: In words.
        rows: Rows by table.
        files: Files and folders.
        carry_out: Removes it.
    """

    what: str
    rows: Mapping[str, int]
    files: Sequence[Path]
    carry_out: Callable[[], None] = field(repr=False)

    @property
    def size_mb(self) -> float:
        """Size of the files."""
        return sum(map(size_of, self.files)) / 2**20


def of_study(study: str, *, storage: str | None = None, workdir: Path = DEFAULT_WORKDIR) -> Removal:
    """A study with all its rows and files; baselines stay if other studies share the database.

    Raises:
        StorageError: If there is no such study, or it is in use.
    """
    loaded = idle_study(study, storage=storage, workdir=workdir)
    url, root = storage_url(loaded.name, storage, workdir), workdir / loaded.name
    own = url == default_storage_url(loaded.name, workdir)
    # The folder may hold the database of another study of the same name; then it is not ours to delete.
    files = (root,) if root.is_dir() and (own or not (root / "study.db").exists()) else ()
    engine = loaded.records.engine

    def carry_out() -> None:
        with storage_errors(url):
            loaded.records.delete_study(loaded.name)
            optuna.delete_study(study_name=loaded.name, storage=storage_of(loaded.optuna))
        engine.dispose()
        remove(files)

    trials = len(trial_states(loaded.optuna, engine))
    return Removal(f"study {loaded.name} with {trials} trials", _rows(loaded, None), files, carry_out)


def of_trials(
    study: str, numbers: Sequence[int], *, storage: str | None = None, workdir: Path = DEFAULT_WORKDIR
) -> Removal:
    """Trials with all their attempts, rows and files; their numbers are not used again.

    Raises:
        StorageError: If there is no such trial, another one took over its result, or the study is in use.
    """
    loaded = idle_study(study, storage=storage, workdir=workdir)
    trials = {trial.number: trial for trial in loaded.optuna.get_trials(deepcopy=False)}
    states = trial_states(loaded.optuna, loaded.records.engine)
    for number in numbers:
        if number not in states:
            raise StorageError(
                f"study {loaded.name}: no trial has the number {number}. "
                f"All trials: {loaded.place.command('show')}"
            )
    for run in loaded.records.runs(loaded.name):
        if run.origin_trial in numbers and run.trial in states and run.trial not in numbers:
            raise StorageError(
                f"study {loaded.name}: trial {run.trial} took over the result of trial {run.origin_trial}. "
                f"Delete both: --trial {run.origin_trial} --trial {run.trial}"
            )
    attempts = sorted({each for number in numbers for each in (*retry_history(trials[number]), number)})
    workspace = Workspace(workdir / loaded.name)
    files = _files_of(workspace, [trials[each] for each in attempts])
    seeds = {run.seed for each in attempts for run in loaded.records.runs(loaded.name, each)}

    def carry_out() -> None:
        with storage_errors(storage_url(loaded.name, storage, workdir)):
            delete_trials(loaded.records.engine, loaded.name, attempts)
            loaded.records.pair_again(loaded.name, seeds)
        loaded.records.engine.dispose()
        remove(files)

    named = ", ".join(map(str, sorted(numbers)))
    rows = _rows(loaded, attempts)
    return Removal(f"trial {named} of study {loaded.name}", rows, files, carry_out)


def of_spare(study: str, *, storage: str | None = None, workdir: Path = DEFAULT_WORKDIR) -> Removal:
    """What a study can do without: shared training, logs of workers, and files that belong to no trial.

    Later trials that would have shared the training train it again.

    Raises:
        StorageError: If there is no such study, or it is in use.
    """
    loaded = idle_study(study, storage=storage, workdir=workdir)
    workspace = Workspace(workdir / loaded.name)
    spare = [
        path for name in ("trunks", "work", "workers") for path in sorted((workspace.root / name).glob("*"))
    ]
    files = [*spare, *leftovers(loaded, workspace)]
    return Removal(f"what study {loaded.name} does not need", {}, files, lambda: remove(files))


def leftovers(study: LoadedStudy, workspace: Workspace) -> list[Path]:
    """Files in a study's folder that no trial of it needs.

    Those of trials that are gone, checkpoints of trials that have ended, networks that it does not keep.
    """
    trials = study.optuna.get_trials(deepcopy=False)
    shown = trial_states(study.optuna, study.records.engine)
    firsts = {first_number(trials[number]) for number in shown}
    alive = {first_number(each) for each in trials if each.state in (TrialState.RUNNING, TrialState.WAITING)}
    folders = [path for path in sorted((workspace.root / "trials").glob("*")) if path.name.isdigit()]
    nobodys = [path for path in folders if int(path.name) not in firsts]
    ended = [path for path in folders if int(path.name) in firsts - alive]
    forms = ("checkpoint.pt*", "result.*", f"{WEIGHTS}.*")
    served = [file for path in ended for form in forms for file in path.glob(form)]
    spare = [path for path in spare_weights(study, workspace) if path.parent not in nobodys]
    attributes = storage_of(study.optuna).get_study_system_attrs(id_of_study(study.optuna))
    known = {
        _artifact(key) for each in (attributes, *(trial.system_attrs for trial in trials)) for key in each
    }
    pictures = [path for path in sorted(workspace.artifacts.glob("*")) if path.name not in known]
    return [*nobodys, *served, *spare, *pictures]


def idle_study(study: str, *, storage: str | None, workdir: Path) -> LoadedStudy:
    """A study that nobody is working on, with the trials of dead processes handed back.

    Raises:
        StorageError: If there is no such study, or it is in use.
    """
    loaded = load_study(study, storage=storage, workdir=workdir, writes=True)
    engine = loaded.records.engine
    working = at_work(engine, loaded.name)
    if working:
        row = working[0].row
        raise StorageError(
            f"study {loaded.name}: it must not be in use, got process {row.pid} on {row.host} "
            f"({row.command}: {row.doing}). Stop it first, with Ctrl-C or SIGTERM."
        )
    forget_dead(engine, loaded.name)
    put_right(loaded.optuna, Workspace.of_study(workdir, loaded.name), loaded.records)
    running = [number for number, state in trial_states(loaded.optuna, engine).items() if state == "running"]
    if running:
        numbers = ", ".join(map(str, running))
        raise StorageError(
            f"study {loaded.name}: none of its trials may be running, got {numbers}. Stop its workers "
            f"first; what died elsewhere counts as running for {GRACE_SECONDS / 60:.0f} minutes."
        )
    return loaded


def remove(files: Iterable[Path]) -> None:
    """Remove files and folders; one that no longer exists is no error."""
    for path in files:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(each.stat().st_size for each in files if each.is_file())


def _files_of(workspace: Workspace, trials: Collection[FrozenTrial]) -> list[Path]:
    folders = [workspace.trial(number) for number in sorted({first_number(trial) for trial in trials})]
    repeats = [
        path
        for trial in trials
        for path in (workspace.root / "confirmations").glob(f"{trial.number:04d}-seed-*")
    ]
    names = {_artifact(key) for trial in trials for key in trial.system_attrs} - {""}
    pictures = [workspace.artifacts / name for name in sorted(names)]
    return [path for path in (*folders, *repeats, *pictures) if path.exists()]


def _artifact(key: str) -> str:
    """Name of the file that one of Optuna's attributes refers to; empty for other attributes."""
    return key.removeprefix("artifacts:") if key.startswith("artifacts:") else ""


def _rows(study: LoadedStudy, trials: Collection[int] | None) -> dict[str, int]:
    rows = count_rows(study.records.engine, study.name, trials)
    everything = study.optuna.get_trials(deepcopy=False)
    return {"trials": len(everything) if trials is None else len(trials), **rows}
