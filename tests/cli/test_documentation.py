"""Every command of the README and of docs/ is run as it stands there, page by page, from top to bottom.

Each page is followed in a folder of its own. The studies there are those of the project, shrunk to runs of
a second, and the published data sets have a few small images.
"""

from __future__ import annotations

import glob
import logging
import re
import shlex
import socket
import socketserver
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dask.distributed import Nanny, Scheduler, SpecCluster
from joblib.externals.loky import get_reusable_executor
from mat_file import write_mat
from nyud_folder import write_nyud
from pages import PAGES, ROOT, SHELLS, command_lines, fences
from pascal_folder import write_release
from PIL import Image
from taskonomy_folder import write_taskonomy
from tiny import TINY, with_paths

from dtme_search.data.taskonomy.index import TINY as TINY_SPLIT

INSTEAD = {
    "nyu_depth_v2_labeled.mat --out /data/NYUDv2": "official/nyu_depth_v2_labeled.mat --out data/made",
    "/data/": "data/",
    "export --study nyud --best": "export --study nyud --best --force",  # four steps teach nothing
    "export --study demo --pareto": "export --study demo --pareto --force",
    "best-1a2b3c4d": "best-*",
    "demo-1a2b3c4d": "demo-*",
    "dashboard --study demo": "dashboard --study demo --port {free_port}",
}
"""What stands in the documentation -> what is run in its place."""

SCHEDULER = "tcp://head:8786"
"""The address that the documentation gives to the scheduler of a cluster."""

EXEMPT = ("make", "pip", "git", "dask", "docker", "CUDA_VISIBLE_DEVICES=0", "CUDA_VISIBLE_DEVICES=1")
"""Programs that get and test the project itself, which CI runs, and a cluster, which a fixture is."""

ELSEWHERE = {
    ("own-data.md", "bash"): "test_own_data.py",
    ("plugins.md", "bash"): "test_plugins.py",
    ("plugins.md", "python"): "test_plugins.py",
    ("sql.md", "python"): "test_sql_docs.py",
}
"""Blocks that a test of their own runs, with its own data."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A working folder with the small studies and data sets that the pages speak of."""
    for kind in ("studies", "configs"):
        (tmp_path / kind).mkdir()
        for path in (ROOT / kind).glob("*.yaml"):
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
            smaller = {"studies": smaller_study, "configs": smaller_config}[kind](values)
            (tmp_path / kind / path.name).write_text(yaml.safe_dump(smaller), encoding="utf-8")
    Image.new("RGB", (40, 30), "gray").save(tmp_path / "photo.jpg")
    write_mat(tmp_path / "official", 2)
    write_nyud(tmp_path / "NYUDv2")
    write_nyud(tmp_path / "data" / "NYUDv2")
    write_release(tmp_path / "PASCALContext")
    buildings = [building for names in TINY_SPLIT.values() for building in names]
    write_taskonomy(tmp_path / "data" / "taskonomy", buildings=buildings, views=((0, 0),))
    yield tmp_path
    # joblib keeps its workers, which stay in the folder where they were started.
    get_reusable_executor().shutdown(wait=True)


def smaller_study(study: dict[str, Any]) -> dict[str, Any]:
    """Three trials; points for the layers of the real network do not fit the smaller one."""
    named = [point for point in study.get("enqueue", ()) if isinstance(point, str)]
    return study | {"trials": 3, "enqueue": named}


def smaller_config(config: dict[str, Any]) -> dict[str, Any]:
    """The same data and tasks with the network and the training of ``TINY``, and smaller still."""
    config = config | {name: TINY[name] for name in ("model", "expansion", "train")}
    changes = {
        "data.image_size": [24, 32],
        "data.holdout_fraction": 0.3,
        "data.scenes": {"num_train": 16, "num_test": 4},
        "expansion.num_images": 2,
        "expansion.analysis_batch_size": 2,
        "train.num_steps": 4,
        "train.batch_size": 2,
    }
    return with_paths(config, changes)


@pytest.fixture(autouse=True)
def _nobody_is_told(monkeypatch) -> None:
    """Trackers write to the folder, also where somebody is logged in."""
    for name, value in {"WANDB_MODE": "offline", "DO_NOT_TRACK": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def answers(monkeypatch) -> list[int]:
    """Whatever serves is asked for its first page once and then stopped; the status codes are kept."""
    found: list[int] = []
    serve = socketserver.BaseServer.serve_forever

    def serve_once(server: socketserver.TCPServer, *args: float) -> None:
        def ask() -> None:
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{server.server_address[1]}/", timeout=60
                ) as answer:
                    found.append(answer.status)
            finally:
                server.shutdown()

        asking = threading.Thread(target=ask)
        asking.start()
        serve(server, *args)
        asking.join()

    monkeypatch.setattr(socketserver.BaseServer, "serve_forever", serve_once)
    return found


def typed(text: str) -> str:
    """``text`` with what is run in place of what stands in the documentation."""
    for shown, run in INSTEAD.items():
        text = text.replace(shown, run)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return text.replace("{free_port}", str(probe.getsockname()[1]))


def to_run(page: Path) -> list[tuple[str, str]]:
    """(language, text) of the blocks that are run here, from top to bottom."""
    ours = [fence for fence in fences(page) if fence[0] in (*SHELLS, "python")]
    return [fence for fence in ours if (page.name, fence[0]) not in ELSEWHERE]


@pytest.fixture
def scheduler(page: Path) -> Iterator[str]:
    """Address of a cluster of one Dask worker, for the pages that speak of one."""
    if SCHEDULER not in page.read_text(encoding="utf-8"):
        yield ""
        return
    local = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    nannies = {0: {"cls": Nanny, "options": {**local, "nthreads": 1, "silence_logs": logging.CRITICAL}}}
    with SpecCluster(
        nannies, {"cls": Scheduler, "options": local | {"dashboard": False}}, silence_logs=logging.CRITICAL
    ) as cluster:
        yield cluster.scheduler_address


@pytest.mark.slow
@pytest.mark.parametrize("page", list(filter(to_run, PAGES)), ids=lambda page: page.name)
def test_every_command_of_a_page_runs_in_its_order(page, run, folder, answers, scheduler):
    served, names = 0, dict[str, Any]()
    for language, text in to_run(page):
        if language == "python":
            exec(compile(typed(text), page.name, "exec"), names)
            continue
        for line in command_lines(text):
            program, *words = shlex.split(typed(line).replace(SCHEDULER, scheduler))
            if program in EXEMPT:
                continue
            assert program == "dtme-search", f"{page.name}: {line}: no test can run this"
            words = [path for word in words for path in sorted(glob.glob(word)) or [word]]
            done = run(*words)
            assert done.code == 0, f"{page.name}: {line}: {done.err}"
            served += words[0] == "dashboard"
    assert answers == served * [200]


def test_nothing_is_replaced_that_no_page_holds():
    texts = "".join(text for page in PAGES for _, text in fences(page))
    assert [shown for shown in INSTEAD if shown not in texts] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_stand_in_blocks_that_are_run(page):
    """In a block of another language, or of none, they would be run by nobody."""
    lines = re.compile(r"^ *(?:\$ )?dtme-search .*$", re.MULTILINE)
    seen = [line for language, text in fences(page) if language in SHELLS for line in lines.findall(text)]
    assert seen == lines.findall(page.read_text(encoding="utf-8"))
