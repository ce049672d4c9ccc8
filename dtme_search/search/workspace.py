"""Where the files of a study lie: checkpoints, artifacts and, by default, its database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """Folder of one study, ``<workdir>/<study>``, private to the user.

    Attributes:
        root: The folder; deleting it costs checkpoints and pictures, and the database if it lies there.
    """

    root: Path

    @classmethod
    def of_study(cls, workdir: Path, study_name: str) -> Workspace:
        """Create the folders of a study."""
        workspace = cls(workdir / study_name)
        for folder in (workspace.root, workspace.artifacts):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return workspace

    @property
    def artifacts(self) -> Path:
        """Files that the dashboard serves."""
        return self.root / "artifacts"

    def trial(self, number: int) -> Path:
        """Folder of a trial; a continued trial keeps the folder of the one it continues."""
        return self.root / "trials" / f"{number:04d}"

    def baseline(self, fingerprint: str) -> Path:
        """Folder of a single-task baseline."""
        return self.root / "baselines" / fingerprint
