"""The dashboard on a study's database: asked in process, without a socket."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from dtme_search.reporting import dashboard


@pytest.fixture
def ask(finished_study, monkeypatch):
    """GET a path of the app that ``serve_dashboard`` would serve."""
    from optuna_dashboard import wsgi

    served = {}

    def run_server(storage, **options) -> None:
        served.update(options, storage=storage)

    monkeypatch.setattr(dashboard, "run_server", run_server)
    dashboard.serve_dashboard(finished_study.study, finished_study.workdir, port=8123)
    assert (served["host"], served["port"]) == ("127.0.0.1", 8123)
    app = wsgi(served["storage"], artifact_store=served["artifact_store"])

    def get(path: str) -> bytes:
        answer = []
        environment = {
            "REQUEST_METHOD": "GET", "PATH_INFO": path, "SERVER_NAME": "127.0.0.1", "SERVER_PORT": "8123",
            "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO(),
            "SERVER_PROTOCOL": "HTTP/1.1", "SCRIPT_NAME": "", "QUERY_STRING": "",
        }  # fmt: skip
        chunks = app(environment, lambda status, headers, exc_info=None: answer.append(status))
        body = b"".join(chunks)
        # A server does so too; the app closes its files then.
        getattr(chunks, "close", lambda: None)()
        assert answer == ["200 OK"], (answer, body[:300])
        return body

    return get


def test_it_lists_the_study_its_trials_and_their_pictures(ask, finished_study):
    (summary,) = json.loads(ask("/api/studies"))["study_summaries"]
    assert summary["study_name"] == "tiny"
    detail = json.loads(ask(f"/api/studies/{summary['study_id']}"))
    assert detail["objective_names"] == ["delta_m_percent", "param_overhead_percent"]
    states = [trial["state"] for trial in detail["trials"]]
    assert states == ["Complete", "Complete", "Fail", "Complete", "Complete", "Complete"]

    trial = detail["trials"][3]
    assert trial["values"] == finished_study.study.optuna.trials[3].values
    names = {artifact["filename"]: artifact["artifact_id"] for artifact in trial["artifacts"]}
    assert names.keys() == {"resolved.yaml", "plan.txt", "conflicts.json", "curves.csv", "conflicts.png"}
    path = f"/artifacts/{summary['study_id']}/{trial['trial_id']}/{names['conflicts.png']}"
    with Image.open(io.BytesIO(ask(path))) as picture:
        assert picture.width > 500


def test_the_page_itself_is_there(ask):
    assert b"<html" in ask("/dashboard").lower()
