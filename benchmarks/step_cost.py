"""Step time of an expanded model against the unexpanded one, with shared streams and with one per task.

    python benchmarks/step_cost.py                           small ViT, 64 x 96, CPU, about a minute
    python benchmarks/step_cost.py --device cuda --paper     ViT-T, 448 x 576, batch 6, bfloat16
    python benchmarks/step_cost.py --image 160 208 --only "only, last half"      operations beside each other

A step is forward and backward of all tasks in training mode. Every round times every variant once, so that
slow moments of a shared machine meet all of them; the table gives medians over rounds, and ratios within
the run. On the CPU it is the processor time of this process, which others do not disturb. "own" is one
stream per task from layer 0 on, the plain way that gives the same numbers. Overhead is that of parameters.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from dtme_search.config import ModelConfig
from dtme_search.models import MultiTaskViT, build_model
from dtme_search.tasks import depth, edge, normals, semseg
from dtme_search.token_space import ExpansionPlan

SPECS = {
    spec.name: spec for spec in (semseg(tuple(f"class{i}" for i in range(8))), depth(), normals(), edge())
}
TASKS = tuple(SPECS)
ALL = tuple((task,) for task in TASKS)
PAIRS = (TASKS[:2], TASKS[2:])


def plans(num_layers: int) -> dict[str, ExpansionPlan]:
    """What is compared; D layers, counted from 0."""
    half = range(num_layers // 2, num_layers)
    every_other = range(0, num_layers, 2)
    one = ((TASKS[0],),)

    def plan(modulate: dict[int, tuple], expand: dict[int, tuple]) -> ExpansionPlan:
        return ExpansionPlan(TASKS, num_layers, {"modulate": modulate, "expand": expand})

    def lora(rank: int, targets: str) -> ExpansionPlan:
        options = {"lora_rank": rank, "lora_targets": targets}
        return ExpansionPlan(TASKS, num_layers, {"lora": dict.fromkeys(half, ALL)}, options)

    def both(layers: range, groups: tuple) -> ExpansionPlan:
        return plan(dict.fromkeys(layers, groups), dict.fromkeys(layers, groups))

    return {
        "TM+TE, last half": both(half, ALL),
        "TM only, last half": plan(dict.fromkeys(half, ALL), {}),
        "TE only, last half": plan({}, dict.fromkeys(half, ALL)),
        "LoRA 4 only, last half": lora(4, "qkv+proj"),
        "LoRA 16 only, last half": lora(16, "qkv+proj"),
        "LoRA 4, MLP too, only, last half": lora(4, "qkv+proj+fc1+fc2"),
        "TM+TE, every other layer from 0": both(every_other, ALL),
        "TM+TE, layer 0": both(range(1), ALL),
        "TM+TE, all layers": both(range(num_layers), ALL),
        "TM+TE, layer 0, 2 groups of 2": both(range(1), PAIRS),
        "TM+TE, layer 0, 1 of 4 tasks": both(range(1), one),
        "TM+TE, last half, 1 of 4 tasks": both(half, one),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--paper", action="store_true", help="ViT-T at 448 x 576, batch 6")
    parser.add_argument("--image", type=int, nargs=2, metavar=("H", "W"), help="ViT-T at this size, batch 4")
    parser.add_argument("--only", default="", help="plans whose name contains this")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def build(
    small: bool, size: tuple[int, int], device: torch.device, plan: ExpansionPlan | None
) -> MultiTaskViT:
    options = {"embed_dim": 96, "depth": 6, "num_heads": 3, "patch_size": 8} if small else {}
    config = ModelConfig(backbone_options=options, drop_path=0.15)
    model = build_model(config, SPECS, size, seed=0).to(device).train()
    if plan is not None:
        model.grow(plan, token_std=0.02, seed=0)
    return model


def step(model: MultiTaskViT, images: torch.Tensor, share_streams: bool) -> float:
    """Seconds of one step."""
    is_cuda = images.device.type == "cuda"
    clock = time.perf_counter if is_cuda else time.process_time
    model.zero_grad(set_to_none=True)
    if is_cuda:
        torch.cuda.synchronize()
    start = clock()
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=is_cuda):
        outputs = model(images, share_streams=share_streams)
        loss = torch.stack([output.square().mean() for output in outputs.values()]).sum()
    loss.backward()
    if is_cuda:
        torch.cuda.synchronize()
    return clock() - start


def flops(model: MultiTaskViT, images: torch.Tensor) -> int:
    """Floating point operations of the matrix products of a step."""
    with FlopCounterMode(display=False) as counter:
        step(model, images, True)
    return counter.get_total_flops()


def medians(variants: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median seconds of each variant, all of them once per round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for counted in [False] + [True] * rounds:
        for name, variant in variants.items():
            value = variant()
            if counted:
                seconds[name].append(value)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    small = not arguments.paper and arguments.image is None
    size = (64, 96) if small else (448, 576) if arguments.paper else tuple(arguments.image)
    images = torch.randn(6 if arguments.paper else 4, 3, *size, device=device)
    plain = build(small, size, device, None)
    variants: dict[str, Callable[[], float]] = {"unexpanded": lambda: step(plain, images, True)}
    compared = {n: plan for n, plan in plans(plain.info.num_layers).items() if arguments.only in n}
    counted = {"unexpanded": flops(plain, images)}
    for name, plan in compared.items():
        model = build(small, size, device, plan)
        counted[name] = flops(model, images)
        for share_streams in (True, False):
            variants[f"{name}/{share_streams}"] = lambda model=model, share=share_streams: step(
                model, images, share
            )
    seconds = medians(variants, arguments.rounds)

    base = seconds["unexpanded"]
    info = plain.info
    print(
        f"{info.num_layers} layers, width {info.embed_dim}, {info.grid[0]}x{info.grid[1]} patches, "
        f"batch {len(images)}, {len(TASKS)} tasks, {device.type}, {arguments.threads} threads, "
        f"median of {arguments.rounds} rounds"
    )
    print(f"unexpanded: {1000 * base:.1f} ms\n")
    columns = (
        f"{'shared ms':>10} {'own ms':>8} {'shared':>7} {'own':>6} {'saved':>6} {'FLOPs':>6} {'overhead':>9}"
    )
    print(f"{'plan':32} {'mean streams':>12} {columns}")
    for name, plan in compared.items():
        shared, own = seconds[f"{name}/True"], seconds[f"{name}/False"]
        load = sum(plan.num_streams(layer) for layer in range(plan.num_layers)) / plan.num_layers
        work = counted[name] / counted["unexpanded"]
        print(
            f"{name:32} {load:12.2f} {1000 * shared:10.1f} {1000 * own:8.1f} {shared / base:6.2f}x "
            f"{own / base:5.2f}x {100 * (1 - shared / own):4.0f} % {work:5.2f}x "
            f"{plan.overhead_percent(info.embed_dim, info.num_parameters, info.linears):7.3f} %"
        )


if __name__ == "__main__":
    main()
