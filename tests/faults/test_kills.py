"""Workers die at any moment, one by one or all at once: the study ends as if nothing had happened."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from killing import Crew, assert_nothing_was_lost, kill_at_random, write

from dtme_search.search import LoadedStudy, load_study, optimize

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]

KILLS = 200
SECONDS = 1200.0
"""After this time no further round begins; the rounds before must have come to a good part of the kills."""


def finish(file: str, folder: Path, storage: str | None = None) -> LoadedStudy:
    """What is left when the last worker has gone, which may be what the dead had in hand."""
    return optimize(file, workdir=folder, storage=storage, device="cpu")


def test_two_hundred_kills_change_nothing(undisturbed, tmp_path):
    """Rounds of the same study in new folders until there were enough; every round is looked at."""
    dice, kills, until = random.Random(7), 0, time.monotonic() + SECONDS
    rounds = []
    while kills < KILLS and time.monotonic() < until:
        folder = tmp_path / f"round-{len(rounds)}"
        folder.mkdir()
        crew = Crew(write(folder), folder / "runs")
        try:
            kill_at_random(crew, 3, KILLS - kills, dice)
        finally:
            crew.end()
        study = finish(crew.file, crew.workdir)
        assert_nothing_was_lost(study, undisturbed, crew.workdir)
        study.records.engine.dispose()
        kills += crew.kills
        rounds.append(crew.kills)
    assert kills >= KILLS, f"this machine is too slow: {rounds} in {SECONDS:.0f} s"


@pytest.mark.postgres
def test_kills_with_a_server_and_a_folder_for_each_worker(undisturbed, tmp_path, postgres_url):
    """As on machines that share the database only: the dead of others are known by their silence alone."""
    from dtme_search.search.trial import heartbeat

    crew = Crew(write(tmp_path), tmp_path / "runs", postgres_url, apart=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heartbeat, "INTERVAL_SECONDS", 0.3)
        for name in ("states", "presence"):
            patch.setattr(f"dtme_search.search.study.{name}.GRACE_SECONDS", 3.0)
        try:
            kill_at_random(crew, 3, 20, random.Random(3))
        finally:
            crew.end()
        time.sleep(4.0)  # the silence of those who died last
        study = finish(crew.file, crew.folder(0), postgres_url)
    assert_nothing_was_lost(study, undisturbed)
    study.records.engine.dispose()


def test_after_all_have_died_at_once_nothing_is_held(undisturbed, tmp_path):
    crew = Crew(write(tmp_path), tmp_path / "runs")
    try:
        for place in range(3):
            crew.start(place)
        trials = tmp_path / "runs" / "tiny" / "trials"
        while not list(trials.glob("*/checkpoint.pt")):
            time.sleep(0.05)
            assert crew.alive and crew.mistakes == []
        crew.kill(crew.alive)
    finally:
        crew.end()
    running = [
        trial.number
        for trial in load_study("tiny", workdir=tmp_path / "runs").optuna.get_trials(deepcopy=False)
        if trial.state.name == "RUNNING"
    ]
    assert running, "they died in the middle of their trials"
    assert_nothing_was_lost(finish(crew.file, crew.workdir), undisturbed, crew.workdir)
