"""What a training step costs with each decoder, unexpanded and grown, against the simple one.

    python benchmarks/decoders.py                 demo backbone, 48 x 64, width 24, CPU, a minute or two
    python benchmarks/decoders.py --paper         ViT-T at 448 x 576, batch 1, decoders of their own width

A step is forward and backward of all tasks, auxiliary outputs included. Every round times every variant
once; medians over rounds, in processor time of this process. Memory is what autograd keeps from the forward
to the backward pass without the weights, each storage once, which no allocator blurs.
"""

from __future__ import annotations

import argparse
import time

import torch
from step_cost import SPECS, TASKS, medians, plans

from dtme_search.config import ModelConfig
from dtme_search.models import MultiTaskViT, build_model

DEMO = {"backbone_options": {"patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 2}}
WIDTHS = {
    "decoder_channels": 24,
    "decoder_options": {"invpt": {"mixing_channels": 8}},
    "architecture_options": {"taskprompter": {"branch_channels": 24, "channel_heads": 4}},
}
VARIANTS = {
    "simple": {"decoder": "simple"},
    "simple, four levels": {"decoder": "simple", "levels": "concat4"},
    "dpt": {"decoder": "dpt"},
    "invpt": {"decoder": "invpt"},
    "taskprompter": {"architecture": "taskprompter"},
}
GROWN = "TM+TE, last half"


def build(variant: str, paper: bool, grown: bool) -> MultiTaskViT:
    fields = VARIANTS[variant] | ({} if paper else DEMO | WIDTHS)
    model = build_model(ModelConfig(**fields), SPECS, image_size(paper), seed=0).train()
    if grown:
        model.grow(plans(model.info.num_layers)[GROWN], token_std=0.02, seed=0)
    return model


def image_size(paper: bool) -> tuple[int, int]:
    return (448, 576) if paper else (48, 64)


def forward(model: MultiTaskViT, images: torch.Tensor) -> torch.Tensor:
    predictions = model.forward_with_auxiliary(images)
    maps = [*predictions.outputs.values(), *(one for more in predictions.auxiliary.values() for one in more)]
    return torch.stack([each.square().mean() for each in maps]).sum()


def step(model: MultiTaskViT, images: torch.Tensor) -> float:
    """Seconds of one step."""
    model.zero_grad(set_to_none=True)
    start = time.process_time()
    forward(model, images).backward()
    return time.process_time() - start


def kept_megabytes(model: MultiTaskViT, images: torch.Tensor) -> float:
    """What autograd keeps of a forward pass."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward(model, images)
    assert loss.isfinite()
    return (
        sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights) / 1e6
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--paper", action="store_true", help="ViT-T at 448 x 576, batch 1")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.randn(1 if arguments.paper else 8, 3, *image_size(arguments.paper))
    models = {
        (variant, grown): build(variant, arguments.paper, grown)
        for variant in VARIANTS
        for grown in (False, True)
    }
    seconds = medians(
        {key: lambda model=model: step(model, images) for key, model in models.items()}, arguments.rounds
    )
    megabytes = {key: kept_megabytes(model, images) for key, model in models.items()}
    reference = ("simple", False)
    print(f"batch {len(images)} of {image_size(arguments.paper)}, {len(TASKS)} tasks, {GROWN}\n")
    columns = (
        f"{'parameters':>12} {'ms':>7} {'ratio':>6} {'grown':>6} {'MB kept':>8} {'ratio':>6} {'grown':>6}"
    )
    print(f"{'':20} {columns}")
    for variant in VARIANTS:
        plain, grown = (variant, False), (variant, True)
        count = sum(parameter.numel() for parameter in models[plain].parameters())
        row = f"{variant:20} {count:12,}"
        for values, unit in ((seconds, 1e3), (megabytes, 1.0)):
            row += f" {unit * values[plain]:7.1f} {values[plain] / values[reference]:6.2f}"
            row += f" {values[grown] / values[plain]:6.2f} "
        print(row)


if __name__ == "__main__":
    main()
