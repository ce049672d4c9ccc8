"""What this device does with dtme-search: one command, minutes, JSON and tables.

    python benchmarks/device.py --out device.json                 everything, under nine minutes on one GPU
    python benchmarks/device.py --parts tests waits steps         some of it; --out adds to what is there
    python benchmarks/device.py --device cpu --quick              does the script itself work?
    python benchmarks/device.py --from device.json [--into docs/performance.md]      the tables again

Parts, each on its own (one that fails is reported, the others go on; the file is written after each):

tests       the tests that need a CUDA device
equal       metrics of a short run on the device and on the CPU, both float32
waits       calls that wait for the device: per training step, per evaluation, per conflict measurement
steps       training steps per second against timm's bare model, unexpanded and grown to 2 and 4 streams in
            the last half of the layers; FLOPs of the plan beside the measured cost; peak memory
compiled    the same with train.compile
conflicts   what a conflict measurement costs, in training steps
loading     data on the device against a loader
search      a search of three trials, end to end
study       the same on photographs from pretrained weights (--data-root, --checkpoint)

Needs no network. Data are rendered, but for `study`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from _commands import pretrained_study, run_command, small_search
from _page import put_table
from _stepping import (
    FULL,
    QUICK,
    TASKS,
    Data,
    Size,
    bare_seconds_per_step,
    batches_of,
    config_of,
    counted_waits,
    flops_per_step,
    ready,
    seconds_per_step,
    wait,
)

from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.training import Trainer, evaluate
from dtme_search.training.growth import Growth

STREAMS = (1, 2, 4)


@dataclass(frozen=True)
class Machine:
    """What every part is given."""

    device: torch.device
    size: Size
    data: Data
    ends: float
    data_root: str | None
    checkpoint: str | None

    @property
    def precisions(self) -> tuple[str, ...]:
        return ("bfloat16", "float32") if self.device.type == "cuda" else ("float32",)

    def is_late(self) -> bool:
        """Whether no further case may begin."""
        return time.monotonic() > self.ends

    def left(self) -> float:
        """Seconds for a subprocess."""
        return max(20.0, self.ends - time.monotonic())


def tests(machine: Machine) -> dict[str, Any]:
    # Warnings of another torch or Python are not what is asked here, nor doctests of optional parts.
    options = [
        "-q",
        "-m",
        "gpu",
        "-W",
        "default",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=--import-mode=importlib",
    ]
    folders = ["tests/metrics", "tests/data/batches", "tests/training"]
    return run_command([sys.executable, "-m", "pytest", *options, *folders], min(180.0, machine.left()))


def equal(machine: Machine) -> dict[str, Any]:
    config = config_of(replace(QUICK, images=24), QUICK.backbones[0], num_steps=8, precision="float32")
    config = config.model_copy(
        update={
            "expansion": config.expansion.model_copy(
                update={"policy": "conflict", "start": 0.25, "range_layer_ratio": 0.5, "num_images": 8}
            )
        }
    )
    metrics = []
    for device in (machine.device, torch.device("cpu")):
        data = build_data(config.data, tuple(config.tasks), device)
        metrics.append(dict(Trainer.of_config(config, data).run().metrics))
    gap = max(abs(metrics[0][task] / metrics[1][task] - 1) for task in TASKS)
    return {"device": metrics[0], "cpu": metrics[1], "largest_relative_gap": gap}


def waits(machine: Machine) -> dict[str, Any]:
    result: dict[str, Any] = {}
    num_steps = 40 if machine.device.type == "cuda" else 2
    for streams in (1, 4):
        with ready(config_of(machine.size, machine.size.backbones[0]), machine.data, streams) as trainer:
            batches = batches_of(trainer)
            for _ in range(machine.size.warm):
                trainer._train_step(next(batches))
            wait(machine.device)
            with counted_waits(machine.device) as places:
                for batch in islice(batches, num_steps):
                    trainer._train_step(batch)
            result[f"per step, {streams} streams"] = {
                "waits": places.total() / num_steps,
                "where": dict(places.most_common(12)),
            }
            if streams > 1:
                continue
            with counted_waits(machine.device) as places:
                evaluate(trainer.model, trainer.data, "holdout", trainer.config.train)
            result["an evaluation"] = {"waits": places.total(), "where": dict(places.most_common(20))}
            with counted_waits(machine.device) as places:
                _growth(trainer, 8).measure()
            result["a conflict measurement"] = {
                "waits": places.total(),
                "where": dict(places.most_common(20)),
            }
    return result


def steps(machine: Machine, *, is_compiled: bool = False) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    backbones, precisions = machine.size.backbones, machine.precisions
    if is_compiled:
        backbones, precisions = (*backbones[:1], *backbones[-1:])[: len(backbones)], precisions[:1]
    for precision in precisions:
        for backbone in backbones:
            config = config_of(machine.size, backbone, precision=precision, compile=is_compiled)
            if machine.is_late():
                return [*rows, {"backbone": backbone, "precision": precision, "error": "no time left"}]
            bare = bare_seconds_per_step(machine.size, backbone, machine.device, config)
            rows += _steps_of(machine, config, bare)
    return rows


def _steps_of(machine: Machine, config: RunConfig, bare: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for streams in STREAMS:
        if machine.is_late():
            break
        row: dict[str, Any] = {
            "backbone": config.model.backbone,
            "precision": config.train.precision,
            "compiled": config.train.compile,
            "streams": streams,
            "bare_ms": 1000 * bare,
        }
        try:
            with ready(config, machine.data, streams) as trainer:
                seconds = seconds_per_step(trainer, machine.size)
                row |= {
                    "step_ms": 1000 * seconds,
                    "steps_per_second": 1 / seconds,
                    "times_bare": seconds / bare,
                }
                if machine.device.type == "cuda":
                    row["peak_memory_gb"] = torch.cuda.max_memory_allocated(machine.device) / 2**30
                if not config.train.compile:
                    row["gflops"] = flops_per_step(trainer) / 1e9
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        rows.append(row)
        first = rows[0]
        if "step_ms" in row and "step_ms" in first:
            row["times_unexpanded"] = row["step_ms"] / first["step_ms"]
        if "gflops" in row and "gflops" in first:
            row["times_flops"] = row["gflops"] / first["gflops"]
    return rows


def conflicts(machine: Machine) -> list[dict[str, Any]]:
    rows = []
    for backbone in (*machine.size.backbones[:1], *machine.size.backbones[2:]):
        with ready(config_of(machine.size, backbone), machine.data) as trainer:
            step = seconds_per_step(trainer, machine.size)
            growth = _growth(trainer, min(16, machine.size.images // 2))
            seconds = []
            for _ in range(2):
                wait(machine.device)
                begun = time.perf_counter()
                growth.measure()
                wait(machine.device)
                seconds.append(time.perf_counter() - begun)
            images = growth.config.expansion.num_images
            rows.append(
                {
                    "backbone": backbone,
                    "images": images,
                    "seconds": seconds[-1],
                    "first_seconds": seconds[0],
                    "steps": seconds[-1] / step,
                    "steps_for_default_images": seconds[-1] / step * 128 / images,
                }
            )
    return rows


def _growth(trainer: Trainer, num_images: int) -> Growth:
    settings = {
        "policy": "conflict",
        "num_images": num_images,
        "analysis_batch_size": 4,
        "decoder_warmup_steps": 0,
    }
    expansion = trainer.config.expansion.model_copy(update=settings)
    config = trainer.config.model_copy(update={"expansion": expansion})
    return Growth(config, trainer.model, trainer.data, trainer.losses, TASKS)


def loading(machine: Machine) -> list[dict[str, Any]]:
    rows = []
    for storage, workers in (("device", 0), ("loader", 4)):
        config = config_of(machine.size, machine.size.backbones[0])
        changed = config.data.model_copy(update={"storage": storage, "num_workers": workers})
        with ready(config.model_copy(update={"data": changed}), machine.data) as trainer:
            step = seconds_per_step(trainer, machine.size)
            batches, count = batches_of(trainer), machine.size.steps
            for _ in range(machine.size.warm):
                next(batches)
            wait(machine.device)
            begun = time.perf_counter()
            for _ in islice(batches, count):
                pass
            wait(machine.device)
            alone = (time.perf_counter() - begun) / count
            rows.append(
                {"storage": storage, "workers": workers, "batch_ms": 1000 * alone, "step_ms": 1000 * step}
            )
    return rows


def search(machine: Machine) -> dict[str, Any]:
    quick = machine.device.type == "cpu"
    trials, num_steps = (1, 4) if quick else (3, 200)
    return small_search(machine.device.type, trials, num_steps, min(200.0, machine.left()))


def study(machine: Machine) -> dict[str, Any]:
    if machine.data_root is None or machine.checkpoint is None:
        return {"skipped": "needs --data-root and --checkpoint"}
    return pretrained_study(machine.device.type, machine.data_root, machine.checkpoint, machine.left())


def compiled(machine: Machine) -> Any:
    if machine.device.type != "cuda":
        return {"skipped": "compiling for a CPU takes minutes"}
    return steps(machine, is_compiled=True)


PARTS: dict[str, Callable[[Machine], Any]] = {
    "equal": equal,
    "waits": waits,
    "tests": tests,
    "steps": steps,
    "conflicts": conflicts,
    "loading": loading,
    "search": search,
    "compiled": compiled,
    "study": study,
}
"""In the order in which they run: what must be known first comes first."""


def tables(report: dict[str, Any]) -> list[str]:
    """Step times as a table in Markdown."""
    about = report["machine"]
    height, width = about["image"]
    lines = [
        f"{about['name']}, torch {about['torch']}, Python {about['python']}; {height}x{width}, "
        f"batch {about['batch']}, four tasks.",
        "",
        "| backbone | precision | compiled | streams | ms a step | steps/s | times bare timm | times "
        "unexpanded | times its FLOPs | GB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for part in ("steps", "compiled"):
        rows = report.get(part)
        for row in rows if isinstance(rows, list) else ():
            cells = [
                row["backbone"],
                row["precision"],
                "yes" if row.get("compiled") else "no",
                row.get("streams", ""),
            ]
            if "error" in row:
                lines.append("| " + " | ".join(map(str, [*cells, row["error"]])) + " |")
                continue
            cells += [f"{row['step_ms']:.1f}", f"{row['steps_per_second']:.1f}"]
            keys = ("times_bare", "times_unexpanded", "times_flops", "peak_memory_gb")
            cells += [f"{row[key]:.2f}" if key in row else "" for key in keys]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("device.json"))
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing new begins")
    parser.add_argument("--quick", action="store_true", help="a tiny network, to try the script")
    parser.add_argument("--data-root", help="folder of NYUDv2 for the part 'study'")
    parser.add_argument("--checkpoint", help="weights for vit_small_patch14_dinov2, for the part 'study'")
    parser.add_argument("--from", dest="recorded", type=Path, help="only print the tables of an earlier run")
    parser.add_argument("--into", type=Path, help="and put them into this page")
    chosen = parser.parse_args()
    if chosen.recorded:
        lines = tables(json.loads(chosen.recorded.read_text(encoding="utf-8")))
        print("\n".join(lines))
        if chosen.into:
            put_table(chosen.into, "device", lines)
        return
    device = torch.device(chosen.device)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
        device = torch.device("cuda", device.index or 0)
    size = QUICK if chosen.quick else FULL
    ends = time.monotonic() + 60 * chosen.minutes
    machine = Machine(device, size, Data(device), ends, chosen.data_root, chosen.checkpoint)
    report: dict[str, Any] = json.loads(chosen.out.read_text(encoding="utf-8")) if chosen.out.exists() else {}
    report["machine"] = {
        "name": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or "CPU",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "image": size.image,
        "batch": size.batch,
    }
    for name in PARTS:
        if name in chosen.parts:
            begun = time.perf_counter()
            report[name] = {"error": "no time left"} if machine.is_late() else _part(name, machine)
            print(
                f"== {name}, {time.perf_counter() - begun:.0f} s: {json.dumps(report[name])[:3000]}",
                flush=True,
            )
            chosen.out.write_text(json.dumps(report, indent=1), encoding="utf-8")
    print("\n".join(tables(report)))


def _part(name: str, machine: Machine) -> Any:
    try:
        return PARTS[name](machine)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-2500:]}


if __name__ == "__main__":
    main()
