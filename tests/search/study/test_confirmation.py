"""Leaders repeated with further seeds: what is trained, against what, once; and what is made of it."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime
from statistics import fmean, stdev

import pytest
import torch
from tiny import write_tiny_study
from watching import HeardRepeats, ctrl_c, once

from dtme_search.config import BaselineRecipes, RunConfig, load_run_config
from dtme_search.data import build_data
from dtme_search.errors import ConfigError, ExportError, TrainingError
from dtme_search.models import build_model
from dtme_search.reporting import best_trial, confirmed_table, export_best, front_table, trials_table
from dtme_search.search import (
    ConfirmationRow,
    LoadedStudy,
    confirm,
    confirmations,
    doubt_about_leader,
    load_study,
    optimize,
    ranking,
)
from dtme_search.search.storage.studies import stored_base_config
from dtme_search.search.study.leaders import leaders
from dtme_search.training import Trainer, TrainingInterrupted
from dtme_search.training.identity import RunContext, result_fingerprint

CPU = torch.device("cpu")
TASKS = ("depth", "edge")


@pytest.fixture
def edit_run(study_copy):
    """Change facts of a run of the copied study; gives the run as it was."""

    def edit(number, **facts):
        run = next(run for run in study_copy.records.runs("tiny") if run.trial == number)
        study_copy.records.save_run(replace(run, **facts))
        return run

    return edit


def metrics_of(config: RunConfig) -> dict[str, float]:
    """Metrics of a run of its own, without study and database."""
    data = build_data(config.data, tuple(config.tasks), CPU)
    means = data.target_means()
    model = build_model(config.model, data.specs, data.image_size, seed=config.seed, output_means=means)
    return dict(Trainer(config, model, data).run().metrics)


def row(trial: int, seed: int, delta_m: float) -> ConfirmationRow:
    gains = json.dumps({"depth": delta_m + 1, "edge": delta_m - 1})
    return ConfirmationRow(
        trial=trial, seed=seed, delta_m_percent=delta_m, gains_percent=gains, metrics="{}", steps_trained=10,
        steps_reused=0, seconds=1.0, split="holdout", device="cpu", code_version="0",
        created_at=datetime.now(UTC),
    )  # fmt: skip


def save(study: LoadedStudy, trial: int, *values: float) -> None:
    for seed, value in enumerate(values, start=1):
        study.records.save_confirmation(study.name, row(trial, seed, value))


def test_a_repeat_is_the_export_with_another_seed_against_baselines_of_that_seed(place, tmp_path):
    heard = HeardRepeats()
    study = confirm("tiny", top=2, seeds=2, workdir=place, device="cpu", listener=heard)
    chosen = [run.trial for run in leaders(study, 2)]
    assert heard.repeats == heard.ended == [(trial, seed) for seed in (1, 2) for trial in chosen]
    assert heard.trained == ["depth", "edge"] * 2, "the baselines of a seed serve all its repeats"

    rows = {(each.trial, each.seed): each for each in study.records.confirmations("tiny")}
    assert sorted(rows) == sorted(heard.repeats)
    number, seed = chosen[0], 2
    exported = study.records.runs("tiny")[number].config
    config = RunConfig.model_validate_json(exported).model_copy(update={"seed": seed})
    metrics = json.loads(rows[number, seed].metrics)
    assert metrics == metrics_of(config)
    assert (
        rows[number, seed].steps_trained + rows[number, seed].steps_reused == 4
        and rows[number, seed].split == "holdout"
    )
    kept = place / "tiny" / "confirmations" / f"{number:04d}-seed-2"
    assert load_run_config(str(kept / "config.yaml")) == config
    assert not list(place.rglob("checkpoint.pt"))

    baselines = {each.task: each for each in study.records.baselines() if each.seed == seed}
    signed = {
        task: 100
        * (metrics[task] / baselines[task].value - 1)
        * (1 if baselines[task].higher_is_better else -1)
        for task in TASKS
    }
    assert json.loads(rows[number, seed].gains_percent) == pytest.approx(signed)
    assert rows[number, seed].delta_m_percent == pytest.approx(fmean(signed.values()))

    again = HeardRepeats()
    more = confirm("tiny", top=2, seeds=3, workdir=place, device="cpu", listener=again)
    assert again.repeats == [(trial, 3) for trial in chosen] and again.trained == ["depth", "edge"]
    assert len(more.records.confirmations("tiny")) == 6


def test_leaders_that_grow_at_the_same_step_share_what_comes_before(place):
    study = confirm("tiny", top=3, seeds=1, workdir=place, device="cpu")
    rows = {each.trial: each for each in study.records.confirmations("tiny")}
    runs = {run.trial: run for run in study.records.runs("tiny")}
    assert sum(each.steps_reused for each in rows.values()) == 2 * 2, "the first one trains the trunk"
    for number, each in rows.items():
        assert each.steps_trained + each.steps_reused == 4
        config = RunConfig.model_validate_json(runs[number].config).model_copy(update={"seed": 1})
        assert json.loads(each.metrics) == metrics_of(config)


def test_the_baselines_of_the_search_are_those_of_the_stored_base_config(finished_study):
    study = finished_study.study
    base = stored_base_config(study.optuna)
    for known in study.records.baselines():
        single = base.for_single_task(known.task)
        context = RunContext.of(single, CPU)
        assert result_fingerprint(single, known.data_fingerprint, context) == known.fingerprint


def test_a_stopped_repeat_goes_on_where_it_was(place, tmp_path):
    with pytest.raises(TrainingInterrupted):
        heard = HeardRepeats(once("repeat_started", 2, ctrl_c))
        confirm("tiny", top=2, seeds=1, workdir=place, device="cpu", listener=heard)
    assert heard.ended == heard.repeats[:1]
    (left,) = (place / "tiny" / "confirmations").rglob("checkpoint.pt")
    assert left.parent.name == f"{heard.repeats[1][0]:04d}-seed-1"
    again = HeardRepeats()
    study = confirm("tiny", top=2, seeds=1, workdir=place, device="cpu", listener=again)
    assert again.repeats == again.ended == heard.repeats[1:] and again.trained == []
    assert len(study.records.confirmations("tiny")) == 2


def test_two_at_once_share_the_work(place):
    heard = [HeardRepeats(), HeardRepeats()]
    barrier, errors = threading.Barrier(2), []

    def work(listener):
        barrier.wait()
        try:
            confirm("tiny", top=3, seeds=1, workdir=place, device="cpu", listener=listener)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(listener,)) for listener in heard]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(heard[0].ended + heard[1].ended) == [(0, 1), (1, 1), (2, 1)]


def test_a_repeat_that_diverges_is_told_and_the_others_go_on(place):
    study = load_study("tiny", workdir=place)
    number = leaders(study, 1)[0].trial
    run = next(run for run in study.records.runs("tiny") if run.trial == number)
    config = RunConfig.model_validate_json(run.config)
    kept = BaselineRecipes(rule="base", recipes={task: {"train.lr": 1e-3} for task in TASKS})
    train = config.train.model_copy(update={"lr": 1e20})
    bad = config.model_copy(update={"train": train, "baselines": kept})
    study.records.save_run(replace(run, config=bad.model_dump_json()))
    heard = HeardRepeats()
    with pytest.raises(
        TrainingError, match=r"study tiny: 1 of 2 repeats failed, .*DivergedError: .*again to retry them\.$"
    ):
        confirm("tiny", top=2, seeds=1, workdir=place, device="cpu", listener=heard)
    assert [each[:2] for each in heard.failed] == [(number, 1)] and len(heard.ended) == 1

    study = load_study("tiny", workdir=place)
    study.records.save_confirmation("tiny", row(number, 2, 1.0))
    assert confirmations(study)[number].failed_seeds == (1,)
    assert "training failed with seed 1" in confirmations(study)[number].in_words()
    study.records.save_run(run)
    again = confirm("tiny", top=2, seeds=1, workdir=place, device="cpu")
    assert confirmations(load_study("tiny", workdir=place))[number].failed_seeds == ()
    assert {1, 2} == set(confirmations(again)[number].seeds)


def test_leaders_are_the_front_then_by_delta_m_and_equal_work_once(study_copy, edit_run):
    numbers = [run.trial for run in leaders(study_copy, 10)]
    front = front_table(study_copy)["trial"].tolist()
    assert numbers[: len(front)] == front and sorted(numbers) == [0, 1, 3, 4], "5 exceeds the limit, 2 failed"
    values = trials_table(study_copy).set_index("trial")["delta_m_percent"]
    assert values[numbers[len(front) :]].is_monotonic_decreasing
    assert [run.trial for run in leaders(study_copy, 2)] == numbers[:2]

    # Trial 4 took its result over from trial 3; trial 1 came to the same plan by itself.
    origin = edit_run(3)
    edit_run(4, origin_trial=3)
    edit_run(1, resolved_fingerprint=origin.resolved_fingerprint)
    assert sorted(run.trial for run in leaders(study_copy, 10)) == [0, 1]
    save(study_copy, 1, 1.0, 2.0)
    assert confirmations(study_copy).keys() >= {1, 3}


def test_mean_and_deviation_leave_out_the_seed_of_the_search(study_copy):
    save(study_copy, 4, 1.0, 2.0, 4.5)
    save(study_copy, 0, 3.0)
    table = trials_table(study_copy).set_index("trial")
    assert table.loc[4, "delta_m_mean"] == pytest.approx(2.5)
    assert table.loc[4, "delta_m_std"] == pytest.approx(stdev([1.0, 2.0, 4.5]))
    assert table["num_seeds"].fillna(0).tolist() == [1, 0, 0, 0, 3, 0]
    assert table["delta_m_std"].isna().tolist() == [True] * 4 + [False, True]
    confirmed = confirmed_table(study_copy)
    assert confirmed["trial"].tolist() == [0, 4] and confirmed["num_seeds"].tolist() == [1, 3]
    assert confirmed["gain_depth_percent"].tolist() == pytest.approx([4.0, 3.5])
    own = table["delta_m_percent"]
    assert confirmed["delta_m_percent"].tolist() == [own[0], own[4]]


def test_the_front_is_in_the_order_of_the_means(study_copy):
    numbers = front_table(study_copy)["trial"].tolist()
    assert len(numbers) >= 2
    save(study_copy, numbers[-1], -500.0, -500.0)
    assert front_table(study_copy)["trial"].tolist() == [numbers[-1], *numbers[:-1]]


def test_the_best_is_the_best_of_the_confirmed_and_the_export_says_so(study_copy, tmp_path, caplog):
    before = best_trial(study_copy)
    worse, better = [number for number in (0, 1, 3, 4) if number != before][:2]
    save(study_copy, worse, -60.0, -61.0)
    save(study_copy, better, -50.0, -51.0)
    assert best_trial(study_copy) == better and before not in (worse, better)
    text = export_best(study_copy, tmp_path / "best.yaml").read_text()
    assert (
        "# Confirmed: mean -50.50 %, standard deviation 0.71 over 2 further seeds (1, 2)." in text
        and "one run" in text
    )
    assert load_run_config(str(tmp_path / "best.yaml")).seed == 0
    assert caplog.text == ""

    save(study_copy, worse, -40.0, -61.5)
    export_best(study_copy, tmp_path / "best.yaml")
    assert "leads trial" in caplog.text and "cannot be distinguished" in caplog.text


def test_two_leaders_are_compared_seed_by_seed(study_copy):
    """The spread over seeds is common to both: 10 points of spread do not hide a lead of one."""
    save(study_copy, 0, 0.0, 10.0, 20.0)
    save(study_copy, 1, 1.0, 11.2, 20.9)
    assert [each.trial for each in ranking(study_copy)] == [1, 0]
    assert doubt_about_leader(ranking(study_copy)) is None
    save(study_copy, 1, 9.0, 8.0, 15.0)
    doubt = doubt_about_leader(ranking(study_copy))
    assert doubt.startswith("trial 1 leads trial 0 by 0.67 points of delta_m, standard error 4.26")
    study_copy.records.save_confirmation("tiny", row(3, 9, 50.0))
    assert "share fewer than two further seeds" in doubt_about_leader(ranking(study_copy))


def test_what_cannot_be_confirmed(tmp_path, small):
    with pytest.raises(ConfigError, match=r"confirm: seeds must be at least 1, got 0"):
        confirm("tiny", seeds=0, workdir=small.workdir)
    with pytest.raises(ExportError, match="no trial is finished"):
        best_trial(_without_trials(tmp_path))
    with pytest.raises(TrainingError, match=r"study empty: no trial is finished\. Run: dtme-search optimize"):
        confirm("empty", workdir=tmp_path / "runs", device="cpu")


def _without_trials(folder) -> LoadedStudy:
    file = write_tiny_study(folder, {"tasks": {"depth": {}}, "train.num_steps": 1}, name="empty")
    return optimize(file, workdir=folder / "runs", device="cpu", timeout=0.0)
