"""The page of a study as the dashboard finds it: complete, whole, written when it changed and not often."""

from __future__ import annotations

import json
import threading

import pytest
from optuna_dashboard import get_note
from sqlalchemy.exc import OperationalError
from tiny import write_tiny_study

from dtme_search.reporting import FIGURES, PageKeeper, page, write_page
from dtme_search.reporting.document import to_markdown
from dtme_search.reporting.page import study_note
from dtme_search.reporting.report import write_report
from dtme_search.reporting.study_data import read_study_data
from dtme_search.search import optimize

PREFIX = "dashboard:plot_data:"


def attributes(study) -> dict[str, object]:
    return study.optuna._storage.get_study_system_attrs(study.optuna._study_id)


def figures(study) -> dict[str, dict]:
    """Figures put together from their pieces as optuna-dashboard does it."""
    from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

    return {key: json.loads(text) for key, text in get_plotly_graph_objects(attributes(study)).items()}


def note_of_trial(study, number: int) -> str:
    trial_id = study.optuna.get_trials(deepcopy=False)[number]._trial_id
    prefix = f"dashboard:{trial_id}:note_str:"
    return "".join(str(value) for key, value in sorted(attributes(study).items()) if key.startswith(prefix))


@pytest.mark.slow
def test_a_study_that_never_grew_has_a_page_and_a_report(tmp_path):
    """Nothing has an expansion start, a plan or conflicts."""
    file = write_tiny_study(
        tmp_path, {"tasks": {"depth": {}}}, trials=1, enqueue=[{"expansion.policy": "none"}]
    )
    study = optimize(file, workdir=tmp_path / "runs", device="cpu")
    write_page(study)
    assert "delta_m" in note_of_trial(study, 0) and "grown after" not in note_of_trial(study, 0)
    for name in ("report.html", "report.md"):
        assert write_report(study, tmp_path / name).stat().st_size > 1000


@pytest.fixture
def written(study_copy):
    write_page(study_copy)
    return study_copy


def test_it_has_the_note_and_every_figure(written):
    note = get_note(written.optuna)
    assert note == to_markdown(study_note(read_study_data(written)))
    assert "## Front" in note and "## Baselines" in note and "| semseg |" in note
    drawn = figures(written)
    assert sorted(drawn) == [figure.key for figure in FIGURES]
    assert all(figure["layout"]["title"]["text"] for figure in drawn.values())


def test_every_ended_trial_has_a_note_of_its_own(written):
    run = written.records.runs("tiny")[4]
    note = note_of_trial(written, 4)
    assert (
        f"delta_m {run.delta_m_percent:+.2f} %" in note and "| 2 | both | each task | each task | 4 |" in note
    )
    assert "The network never grows" in note_of_trial(written, 0)
    assert note_of_trial(written, 2).startswith("**Failed**: DivergedError")
    assert "exceeds a limit" in note_of_trial(written, 5)


def test_pruned_reused_and_taken_over_trials_say_so(study_copy, edit_run):
    edit_run(3, origin_trial=1, steps_reused=10, steps_trained=0)
    edit_run(4, steps_reused=5, steps_trained=5)
    write_page(study_copy)
    assert "reused from trial 1" in note_of_trial(study_copy, 3)
    assert "5 of 10 steps reused from a shared trunk" in note_of_trial(study_copy, 4)
    assert "10 of" not in get_note(study_copy.optuna).split("training steps")[0][-10:]


def test_nothing_is_written_when_nothing_changed(written):
    before = attributes(written)
    assert write_page(written) == 0
    assert attributes(written) == before


def test_a_change_is_written_and_its_version_counts_up(written, edit_run):
    version = attributes(written)["dashboard:note_ver"]
    edit_run(4, delta_m_percent=12.345)
    assert write_page(written) > 0
    assert attributes(written)["dashboard:note_ver"] == version + 1
    assert "+12.3" in get_note(written.optuna) and "12.345" in json.dumps(figures(written)["1-front"])


def test_a_shorter_text_leaves_no_rest_of_a_longer_one(written, monkeypatch):
    long = page.study_note(read_study_data(written))
    monkeypatch.setattr(page, "study_note", lambda data: [*long, *long, *long])
    write_page(written)
    monkeypatch.undo()
    write_page(written)
    assert get_note(written.optuna) == to_markdown(long)


def test_pages_written_at_the_same_time_stay_whole(study_copy):
    """Each reads a state of its own, then both write."""
    threads = [threading.Thread(target=write_page, args=(study_copy,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    write_page(study_copy)
    assert len(figures(study_copy)) == len(FIGURES)
    assert get_note(study_copy.optuna).count("## Front") == 1


def test_an_empty_study_has_a_page_that_says_so(empty_study):
    write_page(empty_study)
    assert "no trials yet" in get_note(empty_study.optuna)
    assert all("annotations" in figure["layout"] for figure in figures(empty_study).values())


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_the_keeper_takes_a_hundredth_of_the_time(monkeypatch):
    clock = Clock()
    written: list[float] = []

    def slow(study: object) -> None:
        written.append(clock.now)
        clock.now += 2.0

    monkeypatch.setattr(page, "time", clock)
    monkeypatch.setattr(page, "write_page", slow)
    keep = PageKeeper()
    for _ in range(1000):
        clock.now += 1.0
        keep(None)
    # Not in the first half minute, then two seconds every 200.
    assert written[0] == pytest.approx(30.0) and len(written) == 5
    assert 2.0 * len(written) <= 0.011 * clock.now


def test_a_page_that_cannot_be_written_ends_no_search(monkeypatch, caplog):
    clock = Clock()
    monkeypatch.setattr(page, "time", clock)
    keep = PageKeeper()
    clock.now = 100.0

    def fail(study: object) -> None:
        raise OperationalError("x", None, Exception("database is locked"))

    monkeypatch.setattr(page, "write_page", fail)
    keep(None)
    assert "page was not written" in caplog.text
