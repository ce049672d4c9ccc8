"""Turn a trial into a file that ``dtme-search train`` runs without changes."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from dtme_search.config import RunConfig, dump_yaml, validate
from dtme_search.errors import ExportError
from dtme_search.operations import legend
from dtme_search.reporting.tables import against, compact_layers
from dtme_search.reporting.targets import refuse_foreign, write_own_text
from dtme_search.search import (
    Confirmed,
    LoadedStudy,
    RunRow,
    confirmations,
    doubt_about_leader,
    feasible_values,
    front_numbers,
    ranking,
    why_no_leader,
)
from dtme_search.search.storage.trials import is_foreign
from dtme_search.search.study.states import dead_among, state_of
from dtme_search.words import cell, doubted, heading

_log = logging.getLogger(__name__)


def best_trial(study: LoadedStudy) -> int:
    """Number of the best feasible trial.

    If trials are confirmed with further seeds and delta_m is the first objective, the one with the highest
    mean over these seeds; else the one with the best first objective (delta_m in the shipped studies), with
    several ``seeds`` by its expected value.

    Raises:
        ExportError: If no trial is finished and feasible.
    """
    front = front_numbers(study)
    if not front:
        raise ExportError(why_no_leader(study))
    if confirmed := _confirmed(study):
        return confirmed[0].trial
    values = feasible_values(study)
    sign = 1 if next(iter(study.config.objectives.values())) == "maximize" else -1
    return max(sorted(front), key=lambda number: sign * values[number][0])


def export_trial(study: LoadedStudy, number: int, path: Path, *, force: bool = False) -> Path:
    """Write the resolved config of a trial, with its results as comments above it.

    The plan that the trial found is included, so the file trains the same network without measuring.

    Args:
        study: The study.
        number: Number of the trial.
        path: File to write.
        force: Export a trial whose delta_m is not to be trusted (a task that does not clearly beat its
            no-image prior) or that exceeds a limit.

    Raises:
        ExportError: If the trial is not finished; or, without ``force``, not feasible or not to be trusted.
    """
    return write_own_text(path, _text(study, number, force))


def export_best(study: LoadedStudy, path: str | Path, *, force: bool = False) -> Path:
    """Write the config of the best feasible trial; see :func:`best_trial` and :func:`export_trial`.

    Warns if further seeds cannot distinguish it from the next one.
    """
    doubt = doubt_about_leader(_confirmed(study))
    if doubt:
        _log.warning(
            "%s. More seeds may settle it: %s", doubt, study.place.command("confirm", "--seeds", "6")
        )
    return export_trial(study, best_trial(study), Path(path), force=force)


def export_front(study: LoadedStudy, folder: Path, *, force: bool = False) -> list[Path]:
    """Write one file per trial of the feasible front into a folder, or none if one of them is refused."""
    best_trial(study)  # raises with advice if there is no front
    texts = {number: _text(study, number, force) for number in sorted(front_numbers(study))}
    files = {folder / f"{study.name}-trial-{number:04d}.yaml": text for number, text in texts.items()}
    for path in files:
        refuse_foreign(path)
    return [write_own_text(path, text) for path, text in files.items()]


def _confirmed(study: LoadedStudy) -> list[Confirmed]:
    """Confirmed configurations, best first; empty if delta_m is not what the study optimises first."""
    first = next(iter(study.config.objectives.items()))
    return ranking(study) if first == ("delta_m_percent", "maximize") else []


def _text(study: LoadedStudy, number: int, force: bool) -> str:
    trials = study.optuna.get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        known = f"one of 0..{len(trials) - 1}" if trials else "one of its trials, and it has none yet"
        raise ExportError(f"study {study.name}: trial must be {known}, got {number}.")
    trial = trials[number]
    if is_foreign(trial):
        raise ExportError(
            f"study {study.name}: trial {number} belongs to another study, whose results warmed up the "
            "sampler. Export it there."
        )
    run = next(iter(study.records.runs(study.name, number)), None)
    if trial.state != TrialState.COMPLETE or run is None or run.config is None:
        raise ExportError(
            f"study {study.name}: trial {number} must be complete, got "
            f"{state_of(trial, dead_among([trial], study.records.engine))}. "
            f"All trials: {study.place.command('show')}"
        )
    if not force:
        _refuse_doubtful(study, trial, run)
    config = validate(RunConfig, json.loads(run.config), f"trial {number}")
    return dump_yaml(config, header=_header(study, trial, run))


def _refuse_doubtful(study: LoadedStudy, trial: FrozenTrial, run: RunRow) -> None:
    if not run.feasible:
        limits = ", ".join(f"{name} at most {limit:g}" for name, limit in study.config.limits.items())
        raise ExportError(
            f"study {study.name}: trial {trial.number} exceeds a limit ({limits}). "
            "Export another trial, or use --force."
        )
    if run.dead_tasks:
        raise ExportError(
            f"study {study.name}: trial {trial.number} is not to be trusted: {doubted(run.dead_tasks)} the"
            " no-image prior, in the baseline or in the trial. Train longer, or use --force."
        )


def _header(study: LoadedStudy, trial: FrozenTrial, run: RunRow) -> str:
    confirmed = confirmations(study).get(trial.number)
    gains = ", ".join(f"{task} {gain:+.2f} %" for task, gain in trial.user_attrs["gains_percent"].items())
    steps = f"{run.total_steps} steps, seed {run.seed}, one run"
    layers = compact_layers(run.operations)
    lines = [
        f"Trial {trial.number} of study {study.name}, exported by dtme-search {run.code_version}.",
        f"delta_m {run.delta_m_percent:+.2f} % on the {run.split} ({gains}); {steps}.",
        f"Against {against(run)}.",
        *_of_further_seeds(confirmed),
        f"Parameter overhead {run.param_overhead_percent:.4f} %, step cost {run.step_cost_ratio:.2f}.",
        *(f"{heading(name)}: {cell(name, value)}." for name, value in run.further_measures.items()),
        f"Layers: {layers} ({legend(layers)}).",
    ]
    if run.dead_tasks:
        lines.append(f"NOT TO BE TRUSTED: {doubted(run.dead_tasks)} the no-image prior.")
    return "\n".join(lines)


def _of_further_seeds(confirmed: Confirmed | None) -> list[str]:
    if confirmed is None:
        return []
    return [
        f"Confirmed: {confirmed.in_words()}.",
        "The seed of the search is left out: its value was selected for being high.",
    ]
