"""How long it takes to look at a large study: tables, page, report, dashboard.

    python benchmarks/reporting.py [--trials 2000] [--workdir FOLDER]

Makes a study of the shape of `nyud` whose numbers are drawn instead of trained (kept in the workdir for the
next time), then times what people wait for.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from dtme_search.config import load_run_config, load_study_config
from dtme_search.reporting import read_study_data, write_page, write_report
from dtme_search.reporting.dashboard import Access, make_server
from dtme_search.search import LoadedStudy, load_study
from dtme_search.search.records import (
    BaselineRow,
    ConflictRow,
    EvaluationRow,
    PlanRow,
    RunRow,
    records_for,
)
from dtme_search.search.space import SearchSpace
from dtme_search.search.storage import default_storage_url, open_storage, open_study
from dtme_search.search.study import STUDY_ATTR
from dtme_search.tasks import depth, edge, normals, semseg

NAME = "large"
TASKS = ("semseg", "depth", "normals", "edge")
LAYERS = 12
EVALUATIONS = 6


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--trials", type=int, default=2000)
    arguments.add_argument("--workdir", type=Path, default=None)
    chosen = arguments.parse_args()
    workdir = chosen.workdir or Path(tempfile.mkdtemp(prefix="dtme-large-"))
    if not (workdir / NAME / "study.db").exists():
        timed(f"make a study of {chosen.trials} trials", lambda: make_study(workdir, chosen.trials))
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


def make_study(workdir: Path, num_trials: int) -> None:
    """Trials with drawn results: growth helps a little, noise is of the same size."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    (workdir / NAME).mkdir(parents=True)
    config = load_study_config("nyud").model_copy(update={"name": NAME, "trials": num_trials})
    base = load_run_config("nyud_vit_tiny")
    space = SearchSpace.from_study(config, base, LAYERS)
    storage = open_storage(default_storage_url(NAME, workdir))
    records = records_for(storage)
    records.create_tables()
    study = open_study(storage, config, space, sampler=None, pruner=None)
    study.set_user_attr(STUDY_ATTR, config.model_dump_json())
    draw = random.Random(0)
    for spec in (semseg(("a",) * 40), depth(), normals("depth"), edge("semseg")):
        records.save_baseline(baseline(spec))
    proposals = optuna.create_study(
        directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(0)
    )
    for number in range(num_trials):
        proposal = proposals.ask()
        run_config = space.suggest(proposal)
        state = draw.choices([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL], weights=[80, 18, 2])[
            0
        ]
        operations = [draw.choice(["none", "modulate", "expand", "both"]) for _ in range(LAYERS)]
        if run_config.expansion.policy == "none":
            operations = ["none"] * LAYERS
        added = sum({"none": 0, "modulate": 2, "expand": 1, "both": 3}[name] for name in operations)
        overhead = 0.053 * added
        gains = {task: draw.gauss(-2 + 0.05 * added, 1.5) for task in TASKS}
        delta_m = sum(gains.values()) / len(gains)
        attrs: dict[str, Any] = {"fingerprint": f"{number:016x}", "plan": " ".join(operations)}
        values = None
        if state == TrialState.COMPLETE:
            attrs |= {"gains_percent": gains, "feasible": overhead <= 1.0, "dead_tasks": []}
            values = [delta_m, overhead]
        elif state == TrialState.FAIL:
            attrs["error"] = "OutOfMemoryError: drawn"
        study.add_trial(
            optuna.create_trial(
                state=state,
                params=proposal.params,
                distributions=proposal.distributions,
                values=values,
                user_attrs=attrs,
                system_attrs={"constraints:param_overhead_percent": overhead - 1.0} if values else {},
            )
        )
        steps = [10_000 * (index + 1) for index in range(EVALUATIONS)]
        if state != TrialState.COMPLETE:
            steps = steps[: draw.randint(1, EVALUATIONS - 1)]
        for step in steps:
            rows = [
                EvaluationRow(
                    task=task, metric="m", value=0.4, gain_percent=gain - 20 * (1 - step / 60_000), loss=1.0
                )
                for task, gain in gains.items()
            ]
            records.save_evaluation(NAME, number, step, rows)
        records.save_conflicts(NAME, number, conflicts(draw))
        groups = [
            PlanRow(layer=layer, operation="modulate", group_index=0, tasks=",".join(TASKS))
            for layer, operation in enumerate(operations)
            if operation != "none"
        ]
        records.save_plan(NAME, number, groups)
        records.save_run(
            RunRow(
                study=NAME,
                trial=number,
                fingerprint=f"{number:016x}",
                resolved_fingerprint=f"{number:016x}",
                state={"FAIL": "failed"}.get(state.name, state.name.lower()),
                config=run_config.model_dump_json(),
                operations=" ".join(operations),
                delta_m_percent=delta_m,
                param_overhead_percent=overhead,
                step_cost_ratio=1 + 0.1 * added,
                feasible=overhead <= 1.0,
                dead_tasks="",
                expansion_step=run_config.expansion_step,
                total_steps=60_000,
                steps_trained=steps[-1],
                seconds_total=3600.0,
                seed=0,
                split="holdout",
                error="OutOfMemoryError: drawn" if state == TrialState.FAIL else None,
                code_version="0",
                started_at=datetime.now(UTC),
                finished_at=datetime.now(UTC),
            )
        )


def conflicts(draw: random.Random) -> list[ConflictRow]:
    return [
        ConflictRow(
            layer=layer,
            task_a=a,
            task_b=b,
            range_rate=draw.gauss(0.4 + 0.005 * layer, 0.01),
            null_rate=draw.gauss(0.45, 0.01),
            range_se=0.003,
            null_se=0.003,
        )
        for layer in range(LAYERS)
        for index, a in enumerate(TASKS)
        for b in TASKS[index + 1 :]
    ]


def baseline(spec: Any) -> BaselineRow:
    value, prior = (0.4, 0.1) if spec.higher_is_better else (0.6, 1.2)
    return BaselineRow(
        fingerprint=spec.name, task=spec.name, metric=spec.metric, unit=spec.unit, value=value,
        prior_value=prior, higher_is_better=spec.higher_is_better, dataset="nyud", data_fingerprint="0",
        backbone="vit_tiny_patch16_224", split="holdout", seed=0, num_steps=60_000, num_images=700,
        seconds=3600.0, seconds_per_step=0.06, config="{}", code_version="0", created_at=datetime.now(UTC),
    )  # fmt: skip


if __name__ == "__main__":
    main()
