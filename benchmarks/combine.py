"""What a step costs by way of combining tasks, in plain steps of the same network, and in memory.

    python benchmarks/combine.py                    small ViT, 64 x 96, batch 4, CPU
    python benchmarks/combine.py --device cuda --paper    ViT-T, 448 x 576, batch 6, bfloat16
    python benchmarks/combine.py --finetune         steps of one task with frozen parts
    python benchmarks/combine.py --memory           peak memory of each way, in processes of their own

A step is what the training does from a batch to gradients, decoders and losses included. Every round times
every variant once, so that slow moments of a shared machine meet all of them; the table gives medians as
ratios within the run. On the CPU it is the processor time of this process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from step_cost import TASKS, medians, plans

from dtme_search.config import FinetuneConfig, RunConfig, set_path
from dtme_search.data import TaskData, build_data
from dtme_search.models import build_model
from dtme_search.token_space import ExpansionPlan
from dtme_search.training.combination import Combination, method_of
from dtme_search.training.finetune import choose_parts, freeze_all_but
from dtme_search.training.forward import TaskLosses

KINDS = (
    *("sum", "uncertainty", "optimal_uncertainty", "dwa", "famo", "gradnorm"),
    *("pcgrad", "cagrad", "mgda", "imtl_g", "aligned_mtl", "nash_mtl", "graddrop", "upgrad"),
)
PLANS = (
    "TM+TE, last half",
    "TM+TE, all layers",
    "TM+TE, layer 0, 2 groups of 2",
    "TM+TE, layer 0, 1 of 4 tasks",
)


def config_of(arguments: argparse.Namespace, kind: str) -> RunConfig:
    options = {} if arguments.paper else {"embed_dim": 96, "depth": 6, "num_heads": 3, "patch_size": 8}
    size = arguments.size or ([448, 576] if arguments.paper else [64, 96])
    values = RunConfig().model_dump(mode="json")
    for path, value in {
        "data.image_size": size,
        "data.scenes.num_train": 24,
        "data.scenes.num_test": 2,
        "data.storage": "device",
        "model.backbone_options": options,
        "train.batch_size": 6 if arguments.paper else 4,
        "train.combine.kind": kind,
    }.items():
        values = set_path(values, path, value)
    return RunConfig.model_validate(values)


def step_of(config: RunConfig, data: TaskData, plan: ExpansionPlan | None) -> Callable[[], None]:
    """One step of a fresh model, up to its gradients."""
    model = build_model(config.model, data.specs, data.image_size, seed=0).to(data.device).train()
    if plan is not None:
        model.grow(plan, token_std=0.02, seed=0)
    combination = Combination(config, TaskLosses(config.train, model, data), method_of(config, data.device))
    batch = next(iter(data.train_batches(config.train.batch_size, 0)))

    def step() -> None:
        model.zero_grad(set_to_none=True)
        combination.backward(0, batch, dict.fromkeys(TASKS, 1.0))
        combination.after_update(batch)

    return step


def timed(step: Callable[[], None], device: torch.device) -> Callable[[], float]:
    def seconds() -> float:
        clock = time.perf_counter if device.type == "cuda" else time.process_time
        start = clock()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - start

    return seconds


def peak_mb(step: Callable[[], None], device: torch.device) -> float:
    """Memory of steps above that of the model and its gradients, in megabytes."""
    if device.type == "cuda":
        step()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--paper", action="store_true", help="ViT-T at 448 x 576, batch 6")
    parser.add_argument("--size", type=int, nargs=2, help="another image size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--plans", nargs="+", default=["unexpanded", *PLANS])
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    parser.add_argument("--finetune", action="store_true", help="steps of one task with frozen parts instead")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def data_of(config: RunConfig, device: torch.device) -> TaskData:
    return build_data(config.data, TASKS, device)


def times(arguments: argparse.Namespace) -> None:
    device = torch.device(arguments.device)
    data = data_of(config_of(arguments, "sum"), device)
    known = {"unexpanded": None, **plans(12 if arguments.paper else 6)}
    variants = {
        f"{kind}/{name}": timed(step_of(config_of(arguments, kind), data, known[name]), device)
        for name in arguments.plans
        for kind in arguments.kinds
    }
    seconds = medians(variants, arguments.rounds)
    print(f"{'plain steps':20}" + "".join(f"{name:>34}" for name in arguments.plans))
    for kind in arguments.kinds:
        ratios = [seconds[f"{kind}/{name}"] / seconds[f"sum/{name}"] for name in arguments.plans]
        print(f"{kind:20}" + "".join(f"{ratio:33.2f}x" for ratio in ratios))


def finetuning(arguments: argparse.Namespace) -> None:
    """Steps of one task with some of the shared parts frozen, in steps of that task with none."""
    device = torch.device(arguments.device)
    config = config_of(arguments, "sum")
    data = data_of(config, device)
    variants: dict[str, Callable[[], float]] = {"all parts": timed(_single(config, data, None), device)}
    for selection in ("importance", "reversed", "random", "last"):
        for fraction in (0.25, 0.5, 0.75):
            settings = FinetuneConfig.model_validate({"fraction": fraction, "selection": selection})
            variants[f"{selection} {fraction:.0%}"] = timed(_single(config, data, settings), device)
    seconds = medians(variants, arguments.rounds)
    for name, value in seconds.items():
        print(f"{name:20}{value / seconds['all parts']:8.2f}x")


def _single(config: RunConfig, data: TaskData, settings: FinetuneConfig | None) -> Callable[[], None]:
    model = build_model(config.model, data.specs, data.image_size, seed=0).to(data.device).train()
    losses = TaskLosses(config.train, model, data)
    if settings is not None:
        parts = choose_parts(losses, TASKS[:1], settings, 0)
        print(f"{settings.selection:12}{settings.fraction:5.0%} of the parts: {', '.join(parts)}")
        freeze_all_but(model, parts)
    batch = next(iter(data.train_batches(config.train.batch_size, 0)))

    def step() -> None:
        model.zero_grad(set_to_none=True)
        losses.backward(batch, {TASKS[0]: 1.0})

    return step


def memory(arguments: argparse.Namespace) -> None:
    size = [str(side) for side in arguments.size or ()]
    print(f"{'MB above the model':20}" + "".join(f"{name:>34}" for name in arguments.plans))
    for kind in arguments.kinds:
        cells = []
        for name in arguments.plans:
            # A process knows its peak, not that of one of its steps.
            command = [sys.executable, __file__, "--one", "--kinds", kind, "--plans", name, "--device"]
            command += [arguments.device, *(["--paper"] if arguments.paper else ())]
            command += ["--size", *size] if size else []
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            cells.append(float(done.stdout))
        print(f"{kind:20}" + "".join(f"{cell:34.0f}" for cell in cells))


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    if arguments.one:
        device, (kind,), (name,) = torch.device(arguments.device), arguments.kinds, arguments.plans
        config = config_of(arguments, kind)
        plan = {"unexpanded": None, **plans(12 if arguments.paper else 6)}[name]
        print(peak_mb(step_of(config, data_of(config, device), plan), device))
    elif arguments.finetune:
        finetuning(arguments)
    elif arguments.memory:
        memory(arguments)
    else:
        times(arguments)


if __name__ == "__main__":
    main()
