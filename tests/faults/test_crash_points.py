"""A worker dies at each point of its life, one after the other: the study ends as if nothing had happened.

A sample by default; ``DTME_TEST_CRASHES=all`` tries every point.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from crashing import Album, Point, counted, in_child, in_trouble, killed, photographed, plain
from killing import CHANGES, assert_nothing_was_lost, is_of_one_run, values_by_point, write
from tiny import grown, write_tiny_study

from dtme_search.search import LoadedStudy, optimize

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]

ALL = os.environ.get("DTME_TEST_CRASHES") == "all"
ONE_LINE = re.compile(r"dtme_search\.errors|OSError.*/runs'$")
"""What the command turns into one line: errors of ours, and those of the system that name a file."""
FEW = [{"expansion.policy": "none"}, grown(start=0.5), grown("none", "expand", "none", start=0.5)]
"""Without growth, with growth by measured conflicts, and with growth that is asked for: one trunk for all."""


class Life:
    """A small study, one undisturbed run of it, and photographs of its folder before each point."""

    def __init__(self, folder: Path) -> None:
        changes = CHANGES | {"train.num_steps": 4, "train.num_evaluations": 2}
        self.file = write_tiny_study(folder, changes, trials=len(FEW), enqueue=FEW)
        self.folder = folder
        # Once without the shim: rendered scenes are there then, as in every later run.
        self.values = self.finished(folder / "undisturbed")
        self.album: Album = photographed(
            lambda: optimize(self.file, workdir=folder / "runs", device="cpu"),
            folder / "runs",
            folder / "album",
        )

    def finished(self, workdir: Path) -> dict[str, list[float]]:
        study = optimize(self.file, workdir=workdir, device="cpu")
        values = values_by_point(study)
        study.records.engine.dispose()
        return values

    def work(self, workdir: Path) -> Callable[[], object]:
        return lambda: optimize(self.file, workdir=workdir, device="cpu")

    def went_on(self, workdir: Path) -> str | None:
        """Start again in a folder; what is wrong at the end, or ``None``."""

        def check() -> None:
            assert_as_undisturbed(optimize(self.file, workdir=workdir, device="cpu"), self.values, workdir)

        return in_child(check, workdir.with_name("error"))


def assert_as_undisturbed(study: LoadedStudy, values: dict[str, list[float]], workdir: Path) -> None:
    trials = study.optuna.get_trials(deepcopy=False)
    states = Counter(trial.state.name for trial in trials)
    assert states["COMPLETE"] == len(values), states
    assert not states["RUNNING"] and not states["WAITING"], states
    assert values_by_point(study) == values
    assert [trial.user_attrs["error"] for trial in trials if "error" in trial.user_attrs] == []
    runs = Counter(run.state for run in study.records.runs(study.name))
    assert runs["complete"] == len(values) and not runs["running"] and not runs["failed"], runs
    assert sorted(row.task for row in study.records.baselines()) == ["depth", "edge"]
    evaluated = Counter((row.trial, row.step, row.task) for row in study.records.evaluations(study.name))
    assert set(evaluated.values()) <= {1}, evaluated
    assert [path for path in (workdir / study.name).rglob("*") if is_of_one_run(path)] == []


@pytest.fixture(scope="module")
def life(tmp_path_factory) -> Life:
    return Life(tmp_path_factory.mktemp("life"))


def sample(points: Sequence[Point], size: int) -> list[Point]:
    """The first point of each site, and of the rest so many at equal distances; all if asked for."""
    one_per_photo = {point.photo: point for point in reversed(points)}
    different = sorted(one_per_photo.values(), key=lambda point: point.number)
    if ALL or len(different) <= size:
        return different
    return [different[len(different) * place // size] for place in range(size)]


def test_a_death_at_each_point_changes_nothing(life, tmp_path, record_property):
    """Points between which nothing changed on disk are one death."""
    tried = sample(life.album.points, 40)
    wrong = {}
    for point in tried:
        folder = tmp_path / "runs"
        life.album.develop(point.photo, folder)
        error = life.went_on(folder)
        if error is not None:
            wrong[point] = error
        shutil.rmtree(folder)
    photos = len({point.photo for point in life.album.points})
    record_property("crash points, different ones, tried", (len(life.album.points), photos, len(tried)))
    assert wrong == {}, "\n".join(f"{point}: {error[-1500:]}" for point, error in wrong.items())


def test_deaths_in_the_life_of_a_larger_study(undisturbed, tmp_path, record_property):
    """Thirteen trials that share trunks, conflict reports and equal work: SIGKILL at points far apart."""
    file, seen = write(tmp_path), tmp_path / "seen"

    def work(folder: Path) -> Callable[[], object]:
        folder.mkdir(parents=True)
        return lambda: optimize(file, workdir=folder, device="cpu")

    def finished(folder: Path) -> str | None:
        def check() -> None:
            study = optimize(file, workdir=folder, device="cpu")
            assert_nothing_was_lost(study, undisturbed, folder)

        return in_child(check, tmp_path / "error")

    assert counted(work(tmp_path / "counted"), tmp_path / "counted", seen) is None
    total, times = int(seen.read_text()), 60 if ALL else 6
    wrong = {}
    for number in [total * place // times + total // (2 * times) for place in range(times)]:
        folder = tmp_path / str(number)
        assert killed(work(folder), folder, lambda current, _, at=number: current == at), number
        error = finished(folder)
        if error is not None:
            wrong[number] = error
        shutil.rmtree(folder)
    record_property("points of the larger study, tried", (total, times))
    assert wrong == {}, "\n".join(f"{point}: {error[-1500:]}" for point, error in wrong.items())


def test_a_real_kill_leaves_what_the_photographs_show(life, tmp_path):
    # By site and not by number: a slower process writes more signs of life.
    sites = (
        "fsync",
        "os.rename checkpoint.pt.#.partial",
        "write checkpoint.pt.#.partial",
        "os.rename result.partial",
    )
    for site, times in zip(sites, (2, 5, 60, 2), strict=True):
        point = [point for point in life.album.points if point.site == site][times - 1]
        folder = tmp_path / f"{point.number}" / "runs"
        folder.mkdir(parents=True)
        assert killed(life.work(folder), folder, visit(site, times)), point
        shown = life.album.folder / str(point.photo)
        assert files_of(folder) == files_of(shown), point
        assert life.went_on(folder) is None, point


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["no space", "broken disk"])
def test_a_disk_in_trouble_at_any_point_ends_in_one_line_and_the_study_goes_on(life, tmp_path, number):
    """One point of each site, with all that come after it or alone; then the disk is well again."""
    sites: dict[str, list[Point]] = {}
    for point in life.album.points[:-1]:
        sites.setdefault(point.site, []).append(point)
    middle = [points[len(points) // 2] for points in sites.values()]
    tried = middle if ALL else middle[number % 2 :: max(1, len(middle) // 12)]
    wrong = {}
    for place, point in enumerate(tried):
        folder = tmp_path / str(point.number) / "runs"
        folder.mkdir(parents=True)
        said = in_trouble(life.work(folder), folder, point.number, number, lasting=place % 2 == 0)
        error = more_than_a_line(said) or life.went_on(folder)
        if error is not None:
            wrong[point] = error
        shutil.rmtree(folder.parent)
    assert wrong == {}, "\n".join(f"{point}: {error[-1500:]}" for point, error in wrong.items())


def visit(site: str, times: int) -> Callable[[int, str], bool]:
    """Says when a process comes to a site for the ``times``-th time."""
    seen = [0]

    def is_here(_: int, current: str) -> bool:
        seen[0] += current == site
        return current == site and seen[0] == times

    return is_here


def more_than_a_line(said: str | None) -> str | None:
    """The traceback of work that neither went on nor ended in what the command turns into one line."""
    return None if said is None or ONE_LINE.match(said.strip().splitlines()[-1]) else said


def files_of(folder: Path) -> list[str]:
    """Relative paths, without the random parts and numbers of processes in some."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix != ".db-shm")
    return sorted("/".join(map(plain, path.parts)) for path in paths)
