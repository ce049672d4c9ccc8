"""The optuna-dashboard on a study's database, with additions: access rules, constraints, threads."""

from __future__ import annotations

import copy
import json
import re
import socket
import sys
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from optuna.artifacts import FileSystemArtifactStore
from optuna.trial import FrozenTrial, TrialState
from optuna_dashboard import wsgi

from dtme_search.reporting.dashboard_names import TRIAL_NOTE
from dtme_search.reporting.guard import LOOPBACK, Access, Environ, Guard, StartResponse, WsgiApp
from dtme_search.search import LoadedStudy, Workspace
from dtme_search.search.storage.optuna_internals import (
    CachedStorage,
    FrozenStudy,
    backend_of,
    id_of_frozen_study,
)
from dtme_search.search.study.states import dead_among

__all__ = ["LOOPBACK", "Access", "make_server"]

_STUDY_PAGE = re.compile(r"/api/studies/(\d+)/?")
_FITS = "main.MuiBox-root { min-width: 0 }"
"""Without it the figures of a study page are as wide as they like, beyond the window."""
_CHANGING = ("AddBox", "Delete", "DriveFileRenameOutline", "Edit", "StopCircle")
"""Icons of the buttons that change something: create, delete and rename a study, edit a note, end a trial."""
_READ_ONLY = (
    ", ".join(f'button:has(> svg[data-testid="{icon}Icon"])' for icon in _CHANGING)
    + ', button:has(> .MuiButton-icon > svg[data-testid="AddBoxIcon"])'
    + ', .MuiCard-root:has(> button svg[data-testid="UploadFileIcon"]) { display: none }'
)
"""Hides what a read-only server would answer with 403."""


class ShownStorage(CachedStorage):
    """The database in a form that optuna-dashboard 0.21 can show.

    Trials above a limit get their constraints as a list, the only form it knows. The notes of trials are kept
    separately, because it would look for each of them among all attributes of the study.
    """

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Trials, also with their constraints as a list; those whose process has died are not running."""
        trials = super().get_all_trials(study_id, deepcopy=deepcopy, states=states)
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        dead = dead_among(running, self._backend.engine) if running else ()
        trials = [_ended(trial) if trial.number in dead else trial for trial in trials]
        return [_with_constraint_list(trial) if trial.constraints else trial for trial in trials]

    def get_all_studies(self) -> list[FrozenStudy]:
        """Studies without the notes of their trials, oldest first."""
        studies = sorted(super().get_all_studies(), key=id_of_frozen_study)
        for study in studies:
            attributes = study.system_attrs.items()
            study.system_attrs = {key: value for key, value in attributes if not TRIAL_NOTE.match(key)}
        return studies

    def trial_notes(self, study_id: int) -> dict[int, dict[str, Any]]:
        """Trial id -> its note in the form that the dashboard sends."""
        versions: dict[int, int] = {}
        pieces: dict[int, dict[int, str]] = {}
        for key, value in self.get_study_system_attrs(study_id).items():
            found = TRIAL_NOTE.match(key)
            if found and found["piece"] is not None:
                pieces.setdefault(int(found["trial"]), {})[int(found["piece"])] = value
            elif found:
                versions[int(found["trial"])] = int(value)
        return {
            trial: {
                "version": version,
                "body": "".join(text for _, text in sorted(pieces.get(trial, {}).items())),
            }
            for trial, version in versions.items()
        }


def make_server(study: LoadedStudy, workdir: Path, access: Access) -> WSGIServer:
    """A server of the study's database that is already listening; ``serve_forever`` answers.

    Raises:
        OSError: If it cannot listen there.
    """
    server = _Server((access.host, access.port), _Silent)
    app = dashboard_app(study, workdir, writable=access.writable)
    server.set_app(Guard(app, access, server.server_port))
    return server


def dashboard_app(study: LoadedStudy, workdir: Path, *, writable: bool = False) -> WsgiApp:
    """The dashboard as a WSGI application, without access rules.

    Buttons that change something are there only if it is ``writable``.
    """
    store = FileSystemArtifactStore(Workspace.of_study(workdir, study.name).artifacts)
    storage = ShownStorage(backend_of(study.optuna))
    style = _FITS if writable else f"{_FITS} {_READ_ONLY}"
    return _Mended(cast("WsgiApp", wsgi(storage, artifact_store=store)), storage, style)


class _Mended:
    """Corrects the dashboard's answers about a study, and how its pages look.

    Trials above a limit are not among the best, figures have an order, trials get their notes back.
    """

    def __init__(self, app: WsgiApp, storage: ShownStorage, style: str) -> None:
        self._app = app
        self._storage = storage
        self._style = f"<style>{style}</style></head>".encode()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        place = _STUDY_PAGE.fullmatch(path)
        if environ["REQUEST_METHOD"] != "GET" or not (place or path.startswith("/dashboard")):
            return self._app(environ, start_response)
        # A browser may have the page as the dashboard has it, without the style.
        fresh = {name: value for name, value in environ.items() if name != "HTTP_IF_MODIFIED_SINCE"}
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
            started[:] = [(status, headers)]

        body = _whole(self._app(fresh, start))
        status, headers = started[0]
        if status.startswith("200") and place:
            body = _mended(body, self._storage.trial_notes(int(place[1])))
        elif status.startswith("200"):
            body = body.replace(b"</head>", self._style, 1)
        dropped = {"content-length", *(() if place else ("last-modified", "etag"))}
        kept = [(name, value) for name, value in headers if name.lower() not in dropped]
        start_response(status, [*kept, ("Content-Length", str(len(body)))])
        return [body]


def _whole(answer: Iterable[bytes]) -> bytes:
    """The parts of an answer, which may be a file that wants to be closed."""
    try:
        return b"".join(answer)
    finally:
        if (close := getattr(answer, "close", None)) is not None:
            close()


def _mended(body: bytes, notes: Mapping[int, Mapping[str, Any]]) -> bytes:
    page = json.loads(body)
    for trial in [*page["trials"], *page["best_trials"]]:
        trial["note"] = notes.get(trial["trial_id"], trial["note"])
    page["best_trials"] = [
        trial for trial in page["best_trials"] if all(value <= 0 for value in trial["constraints"])
    ]
    page["plotly_graph_objects"].sort(key=lambda figure: figure["id"])
    return json.dumps(page).encode()


def _with_constraint_list(trial: FrozenTrial) -> FrozenTrial:
    shown = copy.copy(trial)
    shown.system_attrs = {**trial.system_attrs, "constraints": list(trial.constraints.values())}
    return shown


def _ended(trial: FrozenTrial) -> FrozenTrial:
    shown = copy.copy(trial)
    shown.state = TrialState.FAIL
    return shown


class _Server(ThreadingMixIn, WSGIServer):
    """A thread per request, because reading a large study must not keep the page from loading."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Silent(WSGIRequestHandler):
    """Logs nothing, because a line per request, some with the token in it, helps nobody."""

    def log_message(self, format: str, *args: Any) -> None:
        pass
