"""How long it takes to look at a large study: tables, page, report, dashboard.

    python benchmarks/reporting.py [--trials 2000] [--workdir FOLDER]

Makes a study with the search space of `nyud` whose numbers are drawn instead of trained (kept in the workdir
for the next time), then times what people wait for.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from _drawn import NAME, draw_study

from dtme_search.reporting import read_study_data, write_page, write_report
from dtme_search.reporting.dashboard import Access, make_server
from dtme_search.search import LoadedStudy, load_study


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--trials", type=int, default=2000)
    arguments.add_argument("--workdir", type=Path, default=None)
    chosen = arguments.parse_args()
    workdir = chosen.workdir or Path(tempfile.mkdtemp(prefix="dtme-large-"))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not (workdir / NAME / "study.db").exists():
        timed(f"make a study of {chosen.trials} trials", lambda: draw_study(workdir, chosen.trials))
    study = timed("open the study and read its trials", lambda: opened(workdir))
    data = timed("read everything reports need", lambda: read_study_data(study))
    from dtme_search.reporting.figures import FIGURES

    for figure in FIGURES:
        timed(f"figure {figure.key}", lambda figure=figure: figure.draw(data))
    timed("write the dashboard page, notes of new trials included", lambda: write_page(study))
    timed("write the dashboard page again", lambda: write_page(study))
    for name in ("report.html", "report.md"):
        path = workdir / name
        timed(name, lambda path=path: write_report(opened(workdir), path))
        print(f"    {path.stat().st_size / 1e6:.1f} MB")
    serve(study, workdir)


def opened(workdir: Path) -> LoadedStudy:
    study = load_study(NAME, workdir=workdir)
    study.optuna.get_trials(deepcopy=False)
    return study


def serve(study: LoadedStudy, workdir: Path) -> None:
    server = make_server(study, workdir, Access(port=0))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    root = f"http://127.0.0.1:{server.server_port}"

    def get(path: str) -> bytes:
        with urllib.request.urlopen(root + path) as answer:
            return answer.read()

    (summary,) = json.loads(timed("dashboard: list of studies", lambda: get("/api/studies")))[
        "study_summaries"
    ]
    path = f"/api/studies/{summary['study_id']}"
    for which in ("first", "second"):
        body = timed(f"dashboard: the study's page, {which} time", lambda: get(path))
        print(f"    {len(body) / 1e6:.1f} MB")
    timed("dashboard: the same, refreshed", lambda: get(f"{path}?after=1999"))
    timed("dashboard: parameter importances", lambda: get(f"{path}/param_importances"))
    server.shutdown()
    thread.join()
    server.server_close()


def timed(what: str, work: Callable[[], Any]) -> Any:
    """Print seconds by the clock and of the processor; on a busy machine the second number counts."""
    start, busy = time.perf_counter(), time.process_time()
    result = work()
    print(
        f"{time.perf_counter() - start:8.2f} s, processor {time.process_time() - busy:6.2f} s  {what}",
        flush=True,
    )
    return result


if __name__ == "__main__":
    main()
