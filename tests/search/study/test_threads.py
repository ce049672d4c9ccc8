"""A study computes with one number of threads, so that results do not depend on how many workers it had."""

import pytest
import torch
from tiny import grown, write_tiny_study

from dtme_search import Callback, optimize
from dtme_search.reporting.costs import threads_in_words
from dtme_search.search import join
from dtme_search.search.study.threads import threads_of

FAST = {"train.num_steps": 2, "tasks": {"semseg": {}, "depth": {}}}


class Threads(Callback):
    """Remembers with how many threads baselines and trials compute."""

    def __init__(self):
        self.seen = []

    def on_baseline_end(self, baseline, trained):
        self.seen.append(torch.get_num_threads())

    def on_evaluation(self, trial, evaluation):
        self.seen.append(torch.get_num_threads())


@pytest.fixture
def threads():
    """Sets the threads of this process for one test."""
    here = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(here)


def write(folder, **fields):
    return write_tiny_study(folder, FAST, objectives={"delta_m_percent": "maximize"}, **fields)


def test_whoever_goes_on_with_a_study_uses_the_threads_of_its_first_worker(tmp_path, threads):
    file, where = write(tmp_path), {"workdir": tmp_path / "runs", "device": "cpu"}
    first, second, third = Threads(), Threads(), Threads()
    threads(3)
    study = optimize(file, trials=1, callbacks=[first], **where)
    threads(2)
    optimize(file, trials=2, callbacks=[second], **where)
    assert torch.get_num_threads() == 2  # the caller's number is as it was
    optimize(file, trials=3, timeout=0.0, **where)
    join("tiny", callbacks=[third], **where)
    assert {*first.seen, *second.seen, *third.seen} == {3} and second.seen and third.seen
    assert threads_of(study.optuna) == 3
    assert [run.threads for run in study.records.runs("tiny")] == [3, 3, 3]
    assert threads_in_words(study) == "Each trial computes with 3 CPU threads, on every worker."


@pytest.mark.slow
def test_the_last_trial_is_the_same_with_other_numbers_of_workers(tmp_path, threads):
    """With a model that is large enough for its sums to be divided among threads."""
    points = [{"expansion.policy": "none"}, grown("both", "none", "expand", start=0.0)]
    wide = {"model.backbone_options": {"patch_size": 4, "embed_dim": 96, "depth": 3, "num_heads": 4}}

    def run(name, *totals_and_workers):
        (tmp_path / name).mkdir(exist_ok=True)
        file = write_tiny_study(
            tmp_path / name, wide, objectives={"delta_m_percent": "maximize"}, enqueue=points
        )
        for total, workers in totals_and_workers:
            study = optimize(file, trials=total, workers=workers, workdir=tmp_path / name, device="cpu")
        values = {(row.trial, row.step, row.task): row.value for row in study.records.evaluations("tiny")}
        return values, threads_of(study.optuna)

    threads(1)
    alone, fixed = run("alone", (2, 1))
    assert fixed == 1
    threads(2)
    divided, fixed = run("divided", (2, 1))
    assert fixed == 2
    assert divided != alone  # so the number of threads does matter
    threads(1)
    run("mixed", (1, 1))
    threads(2)
    assert run("mixed", (2, 2)) == (alone, 1)
