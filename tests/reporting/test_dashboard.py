"""The dashboard of a finished study, served for real: what it answers, and what a browser makes of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import threading
import urllib.error
import urllib.request
from io import BytesIO
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.simple_server import make_server as make_http

import pytest
from PIL import Image

from dtme_search.reporting import FIGURES, Access, make_server, write_page
from dtme_search.reporting.dashboard import dashboard_app
from dtme_search.search import load_study

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TITLES = (
    "Gain and cost of every trial",
    "delta_m while training",
    "Operation by layer",
    "Gain by expansion start",
    "Conflicting tokens by layer and pair of tasks",
    "Importance of the searched parameters",
    "Gradients on the shared parameters",
    "Data map",
    "Gain and measured step cost",
)


class Site:
    """A served copy of the finished study."""

    def __init__(self, server) -> None:
        self.root = f"http://127.0.0.1:{server.server_port}"

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.root + path, timeout=60) as answer:
            return answer.read()

    def json(self, path: str):
        return json.loads(self.get(path))


@pytest.fixture(scope="module")
def site(finished_study, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("served") / "runs"
    shutil.copytree(finished_study.workdir, workdir)
    study = load_study("tiny", workdir=workdir)
    write_page(study)
    server = make_server(study, workdir, Access(port=0))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Site(server)
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_lists_the_study_its_trials_and_their_pictures(site, finished_study):
    (summary,) = site.json("/api/studies")["study_summaries"]
    assert summary["study_name"] == "tiny"
    detail = site.json(f"/api/studies/{summary['study_id']}")
    assert detail["objective_names"] == ["delta_m_percent", "param_overhead_percent"]
    states = [trial["state"] for trial in detail["trials"]]
    assert states == ["Complete", "Complete", "Fail", "Complete", "Complete", "Complete"]

    trial = detail["trials"][3]
    assert trial["values"] == finished_study.study.optuna.trials[3].values
    names = {artifact["filename"]: artifact["artifact_id"] for artifact in trial["artifacts"]}
    assert names.keys() == {"resolved.yaml", "plan.txt", "conflicts.json", "curves.csv", "conflicts.png"}
    path = f"/artifacts/{summary['study_id']}/{trial['trial_id']}/{names['conflicts.png']}"
    with Image.open(BytesIO(site.get(path))) as picture:
        assert picture.width > 500


def test_notes_and_figures_are_there_in_order(site):
    detail = site.json("/api/studies/1")
    assert [figure["id"] for figure in detail["plotly_graph_objects"]] == [figure.key for figure in FIGURES]
    drawn = [json.loads(figure["graph_object"]) for figure in detail["plotly_graph_objects"]]
    assert all(
        figure["layout"]["title"]["text"].startswith(title)
        for figure, title in zip(drawn, TITLES, strict=True)
    )
    assert "## Front" in detail["note"]["body"]
    assert all(trial["note"]["body"] for trial in detail["trials"])


def test_a_trial_above_a_limit_is_infeasible_and_not_among_the_best(site, finished_study):
    detail = site.json("/api/studies/1")
    constraints = [trial["constraints"] for trial in detail["trials"]]
    assert constraints[5][0] > 0 and all(value <= 0 for value in constraints[4])
    best = {trial["number"] for trial in detail["best_trials"]}
    assert best == {trial.number for trial in finished_study.study.optuna.best_trials} and 5 not in best


def test_it_cannot_be_changed(site):
    for method, path in (
        ("DELETE", "/api/studies/1"),
        ("PUT", "/api/studies/1/note"),
        ("POST", "/api/studies"),
    ):
        request = urllib.request.Request(site.root + path, b"{}", method=method)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=60)
        assert refused.value.code == 403
        refused.value.close()
    assert len(site.json("/api/studies")["study_summaries"]) == 1


@pytest.mark.parametrize("writable", [False, True])
def test_only_a_writable_page_has_buttons_that_change_something(finished_study, writable):
    app = dashboard_app(finished_study.study, finished_study.workdir, writable=writable)
    for path in ("/dashboard", "/dashboard/studies/1/note"):
        page = b"".join(app({"REQUEST_METHOD": "GET", "PATH_INFO": path}, lambda *_: None)).decode()
        assert "min-width: 0" in page.split("</head>")[0]
        assert ("DeleteIcon" in page) != writable


def test_a_page_that_a_browser_has_seen_without_the_style_comes_anew(finished_study):
    app = dashboard_app(finished_study.study, finished_study.workdir)
    told: list[tuple[str, list[tuple[str, str]]]] = []
    seen = {"REQUEST_METHOD": "GET", "PATH_INFO": "/dashboard"}
    seen["HTTP_IF_MODIFIED_SINCE"] = "Fri, 01 Jan 2100 00:00:00 GMT"
    body = b"".join(app(seen, lambda status, headers, *_: told.append((status, headers))))
    assert told[0][0].startswith("200") and b"min-width" in body
    assert not {name.lower() for name, _ in told[0][1]} & {"last-modified", "etag"}


def test_a_browser_that_goes_away_is_no_news(site, capfd):
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", int(site.root.rpartition(":")[2]))) as connection:
            reset = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            connection.sendall(b"GET /api/studies/1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    site.json("/api/studies/1")
    assert capfd.readouterr().err == ""


def test_many_requests_at_once_are_answered(site):
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(len(site.json("/api/studies/1")["trials"])))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [6] * 6


PROBE = b"""<script>setInterval(() => {
  const icons = [...document.querySelectorAll("button svg")].filter(icon => icon.getClientRects().length);
  const names = icons.map(icon => icon.getAttribute("data-testid"));
  const root = document.documentElement;
  root.setAttribute("data-seen", [root.scrollWidth, window.innerWidth, ...new Set(names)].join(" "));
}, 1000)</script></head>"""
"""Tells the width of a page and of its window, and the icons of the buttons that are visible."""


@pytest.fixture
def probed(finished_study):
    """The dashboard with ``PROBE`` in its pages, which its own rules for scripts would not run."""
    app = dashboard_app(finished_study.study, finished_study.workdir)

    def probing(environ, start_response):
        told: list[tuple[str, list[tuple[str, str]]]] = []
        answer = app(environ, lambda status, headers, *_: told.append((status, headers)))
        body = b"".join(answer)
        getattr(answer, "close", lambda: None)()
        status, headers = told[0]
        rules = ("content-length", "content-security-policy")
        start_response(status, [header for header in headers if header[0].lower() not in rules])
        return [body.replace(b"</head>", PROBE)]

    with make_http("127.0.0.1", 0, probing, Threads, Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Threads(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def browse(address: str, folder: Path, width: int = 1600) -> str:
    """What a browser has made of a page after half a minute of its own time."""
    options = ["--headless", "--disable-gpu", f"--user-data-dir={folder}", "--virtual-time-budget=30000"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")
    done = subprocess.run(
        [BROWSER, *options, f"--window-size={width},4000", "--dump-dom", address],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs a browser: chromium or google-chrome on the PATH")
class TestInABrowser:
    @pytest.mark.parametrize("width", [1280, 1920])
    @pytest.mark.parametrize("page", ["", "/studies/1", "/studies/1/note", "/studies/1/trials?numbers=3"])
    def test_a_page_fits_its_window_and_offers_nothing_that_is_refused(self, probed, tmp_path, page, width):
        seen = re.findall('data-seen="([^"]+)"', browse(f"{probed}/dashboard{page}", tmp_path, width))
        whole, window, *icons = seen[0].split()
        assert int(whole) <= int(window) == width
        assert "MenuIcon" in icons
        changing = {"AddBoxIcon", "DeleteIcon", "DriveFileRenameOutlineIcon", "EditIcon", "UploadFileIcon"}
        assert not changing & set(icons)

    def test_the_study_page_draws_every_figure(self, site, tmp_path):
        page = browse(f"{site.root}/dashboard/studies/1", tmp_path)
        assert [title for title in TITLES if title not in page] == []
        assert "Pareto Front" in page and "delta_m_percent" in page

    def test_the_note_is_a_text_with_tables(self, site, tmp_path):
        page = browse(f"{site.root}/dashboard/studies/1/note", tmp_path)
        assert "<table" in page and "Baselines" in page and "The best feasible trial" in page

    def test_a_trial_shows_its_plan_and_its_artifacts(self, site, tmp_path):
        page = browse(f"{site.root}/dashboard/studies/1/trials?numbers=3", tmp_path)
        for name in ("conflicts.png", "curves.csv", "resolved.yaml", "plan.txt"):
            assert name in page
        assert "no-image prior" in page and "modulation for" in page
