"""What sharing work saves: one study trained plainly and with reuse, the same proposals, the same values.

    python benchmarks/reuse.py [STUDY] [--trials 24] [--steps 80] [--block 6]

Both ways take turns, a block of trials each, so that a machine that slows down slows both. Equal values make
the sampler propose the same trials; that every trial ends with equal values is checked, and the benchmark
fails where one does not. Baselines are trained once, before, and not counted. Seconds are whole trials, from
proposal to values.

Seconds are put down to a saving trial by trial, the plain one against its twin: all of them to equal work
where the result was taken over; else those of training and evaluating to trunks, those of measuring to
conflict reports. The rest is around the trials (SQL, files, waiting for the disk).
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from dtme_search.search import LoadedStudy, optimize, read_study, train_baselines

AIM = 0.6


@dataclass(frozen=True)
class Pair:
    """A trial trained plainly, and its twin that shared what it could.

    Attributes:
        number: Its number, in both studies.
        steps: Steps trained, plain and shared.
        seconds: From proposal to values.
        training: Seconds of training and evaluating.
        measuring: Seconds of measuring conflicts and step costs.
        origin: Trial whose result the twin took over.
        policy: How it grows.
        start: When it grows, in steps; ``None`` for never.
    """

    number: int
    steps: tuple[int, int]
    seconds: tuple[float, float]
    training: tuple[float, float]
    measuring: tuple[float, float]
    origin: int | None
    policy: str
    start: int | None


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("study", nargs="?", default="demo")
    arguments.add_argument("--trials", type=int, default=24)
    arguments.add_argument("--steps", type=int, default=80, help="steps of a training run")
    arguments.add_argument("--block", type=int, default=6, help="trials of one way before the other's turn")
    arguments.add_argument("--set", action="append", default=[], help="path=value for the base config")
    arguments.add_argument("--device", default="cpu")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    overrides = (f"train.num_steps={chosen.steps}", *chosen.set)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {way: write_study(folder, chosen.study, way, overrides) for way in ("plain", "shared")}
        storage = f"sqlite:///{folder / 'both.db'}"
        options = {"storage": storage, "workdir": folder, "device": chosen.device}
        train_baselines(files["plain"], **options)
        for total in [*range(chosen.block, chosen.trials, chosen.block), chosen.trials]:
            plain = optimize(files["plain"], trials=total, reuse=False, **options)
            shared = optimize(files["shared"], trials=total, **options)
            print(f"{total} of {chosen.trials} trials", flush=True)
        check_equal(plain, shared)
        reports = len(list(folder.glob("*shared/trunks/*/conflicts-*.json")))
        print_result(pairs(plain, shared), plain, shared, reports)


def write_study(folder: Path, study: str, way: str, overrides: tuple[str, ...]) -> str:
    """The study under another name, with its base config written out."""
    config, base = read_study(study, overrides)
    values = config.model_dump(mode="json", exclude_unset=True)
    values |= {"name": f"{config.name}-{way}", "config": base.model_dump(mode="json")}
    path = folder / f"{values['name']}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return str(path)


def check_equal(plain: LoadedStudy, shared: LoadedStudy) -> None:
    """Raise unless both studies proposed and found the same."""
    for one, other in zip(plain.optuna.trials, shared.optuna.trials, strict=True):
        assert one.params == other.params, f"trial {one.number}: {one.params} is not {other.params}"
        assert one.state == other.state, f"trial {one.number}: {one.state} is not {other.state}"
        if one.values is None:  # points that wait for their turn, failures
            continue
        # What a step costs is timed, and no two timings are equal.
        both = zip(plain.config.objectives, one.values, other.values, strict=True)
        assert all(a == b for name, a, b in both if name != "step_cost_ratio"), (
            f"trial {one.number}: {one.values} is not {other.values}"
        )
        rows = (study.records.evaluations(study.name, one.number) for study in (plain, shared))
        first, second = ([(row.step, row.task, row.value) for row in of] for of in rows)
        assert first == second, f"trial {one.number}: {first} is not {second}"


def pairs(plain: LoadedStudy, shared: LoadedStudy) -> list[Pair]:
    """Every trial beside its twin."""
    found = []
    both = zip(plain.records.runs(plain.name), shared.records.runs(shared.name), strict=True)
    for runs in both:
        if runs[0].state != "complete":
            continue
        trials = [study.optuna.trials[runs[0].trial] for study in (plain, shared)]
        found.append(
            Pair(
                number=runs[0].trial,
                steps=tuple(run.steps_trained for run in runs),
                seconds=tuple(trial.duration.total_seconds() for trial in trials),
                training=tuple((run.seconds_train or 0.0) + (run.seconds_evaluate or 0.0) for run in runs),
                measuring=tuple(run.seconds_measure or 0.0 for run in runs),
                origin=runs[1].origin_trial,
                policy=trials[0].params.get("expansion.policy", ""),
                start=runs[0].expansion_step,
            )
        )
    return found


def print_result(found: Sequence[Pair], plain: LoadedStudy, shared: LoadedStudy, reports: int) -> None:
    """A line per trial, then the ratios and what each saving has in them."""
    print("\ntrial  policy      grows at  steps plain  shared  seconds plain  shared  origin")
    for pair in found:
        print(
            f"{pair.number:5d}  {pair.policy:10s}  {'never' if pair.start is None else pair.start!s:>8s}  "
            f"{pair.steps[0]:11d}  {pair.steps[1]:6d}  {pair.seconds[0]:13.1f}  {pair.seconds[1]:6.1f}  "
            f"{'' if pair.origin is None else pair.origin!s:>6s}"
        )
    saved = shared.savings()
    steps, seconds = (
        [sum(getattr(pair, name)[way] for pair in found) for way in (0, 1)] for name in ("steps", "seconds")
    )
    alone = [pair for pair in found if pair.origin is None]
    by_saving = {
        "trunks": (saved.from_trunks, difference(pair.training for pair in alone)),
        "equal work": (
            saved.from_equal_work,
            difference(pair.seconds for pair in found if pair.origin is not None),
        ),
        "conflict reports": (0, difference(pair.measuring for pair in alone)),
    }
    rest = seconds[0] - seconds[1] - sum(part for _, part in by_saving.values())
    print("\nsaved by          steps  share   seconds  share")
    for name, (part, time) in {**by_saving, "the rest": (0, rest)}.items():
        print(f"{name:16s}  {part:5d}  {part / steps[0]:5.1%}  {time:8.1f}  {time / seconds[0]:5.1%}")
    measured = sum(bool(plain.records.conflicts(plain.name, pair.number)) for pair in found)
    starts = Counter(pair.start or 0 for pair in found if pair.start is not None)
    never = sum(pair.start is None for pair in found)
    print(f"\nequal values in all {len(found)} trials")
    print(f"taken over: {saved.trials_taken_over} trials")
    print(f"conflicts measured: {measured} times plain, {reports} times shared")
    growing = ", ".join(f"{count} at step {step}" for step, count in sorted(starts.items()))
    print(f"growing: {growing}, {never} never")
    print(f"trunk stretches trained: {len(shared.records.trunks(shared.name))}")
    print(f"training steps: {steps[1]} of {steps[0]}, ratio {steps[1] / steps[0]:.2f} (aim {AIM})")
    print(f"wall time:      {seconds[1]:.0f} s of {seconds[0]:.0f} s, ratio {seconds[1] / seconds[0]:.2f}")


def difference(both: Iterable[tuple[float, float]]) -> float:
    """What the plain ones took longer than the shared ones."""
    return sum(plain - shared for plain, shared in both)


if __name__ == "__main__":
    main()
