"""The optuna-dashboard on a study's database, on this machine only."""

from __future__ import annotations

from pathlib import Path

from optuna.artifacts import FileSystemArtifactStore
from optuna_dashboard import run_server

from dtme_search.search import LoadedStudy, Workspace

HOST = "127.0.0.1"


def serve_dashboard(study: LoadedStudy, workdir: Path, port: int) -> None:
    """Serve until interrupted. Only this machine can connect: the dashboard itself asks for no password."""
    workspace = Workspace.of_study(workdir, study.name)
    run_server(
        study.optuna._storage,
        host=HOST,
        port=port,
        artifact_store=FileSystemArtifactStore(workspace.artifacts),
    )
