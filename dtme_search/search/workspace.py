"""Where the files of a study are: checkpoints, artifacts and, by default, its database."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from dtme_search.training.disk import WEIGHTS, remove_checkpoint, remove_partial


def private_folder(folder: Path) -> Path:
    """Create a folder and its missing parents, for this user only, and return it.

    An existing folder keeps its permissions: somebody may share it on purpose. ``doctor`` reports it.
    """
    for path in reversed([folder, *folder.parents]):
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Workspace:
    """Folder of one study, ``<workdir>/<study>``, private to the user.

    Attributes:
        root: The folder; deleting it loses checkpoints and pictures, and the database if that is in it.
    """

    root: Path

    @classmethod
    def of_study(cls, workdir: Path, study_name: str) -> Workspace:
        """Create the folders of a study."""
        workspace = cls(workdir / study_name)
        private_folder(workspace.artifacts)
        return workspace

    @property
    def artifacts(self) -> Path:
        """Files that the dashboard serves."""
        return self.root / "artifacts"

    @property
    def asking_lock(self) -> Path:
        """Lock held from asking for a trial until its own lock is taken, so that none escapes notice."""
        return self.root / "asking.lock"

    def trial_lock(self, number: int) -> Path:
        """Lock that the process of a trial holds; the system frees it whenever the process dies."""
        return self.trial(number) / "running.lock"

    def trial(self, number: int) -> Path:
        """Folder of a trial; a continuation keeps the folder of the trial it continues."""
        return self.root / "trials" / f"{number:04d}"

    def result(self, number: int) -> Path:
        """Result of a trial; exists from when it is known until it is reported."""
        return self.trial(number) / "result.json"

    def weights(self, number: int) -> Path:
        """Trained network of a trial, where the study keeps it; its tasks are beside it."""
        return self.trial(number) / WEIGHTS

    def kept_weights(self) -> dict[int, Path]:
        """First number of a trial -> its trained network, for all that are kept."""
        trials = self.root / "trials"
        names = [name for name in os.listdir(trials) if name.isdigit()] if trials.is_dir() else []
        paths = {int(name): trials / name / WEIGHTS for name in names}
        return {number: path for number, path in paths.items() if path.exists()}

    def forget(self, number: int) -> None:
        """Remove what a trial needs only until it has ended."""
        remove_checkpoint(self.trial(number) / "checkpoint.pt")
        remove_partial(self.weights(number))
        for path in (self.result(number), self.result(number).with_suffix(".partial")):
            path.unlink(missing_ok=True)

    def forget_all(self) -> None:
        """Remove the files of all trials, their repeats and their shared training; baselines stay."""
        for name in ("trials", "artifacts", "confirmations", "trunks", "work"):
            for path in (self.root / name).glob("*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def unfinished_trials(self) -> set[int]:
        """Trials whose folders hold files that are needed only until they have ended."""
        trials = self.root / "trials"
        forms = ("checkpoint.pt*", "result.*", f"{WEIGHTS}.*.partial")
        files = [file for form in forms for file in trials.glob(f"*/{form}")]
        return {int(file.parent.name) for file in files}

    def claim_trial(self, number: int, current: int) -> None:
        """Note that the work of trial ``number`` continues here, as trial ``current``.

        Another machine may continue it in its own folder, whose lock this machine cannot see.
        """
        folder = private_folder(self.trial(number))
        (folder / "number.txt").write_text(f"{current}\n", encoding="utf-8")

    def is_of_trial(self, number: int, current: int) -> bool:
        """Whether trial ``current``, which does the work of ``number``, started here."""
        try:
            return (self.trial(number) / "number.txt").read_text(encoding="utf-8").strip() == str(current)
        except OSError:
            return False

    @property
    def trunks(self) -> Path:
        """Unexpanded training that trials share."""
        return self.root / "trunks"

    def work_lock(self, fingerprint: str) -> Path:
        """Lock of the trial that is doing a piece of resolved work."""
        return private_folder(self.root / "work") / f"{fingerprint}.lock"

    def baseline(self, fingerprint: str) -> Path:
        """Folder of a single-task baseline."""
        return self.root / "baselines" / fingerprint

    def repeat(self, trial: int, seed: int) -> Path:
        """Folder of a trial repeated with a further seed."""
        return self.root / "confirmations" / f"{trial:04d}-seed-{seed}"
