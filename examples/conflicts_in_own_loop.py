"""Where do tasks conflict in a transformer of your own? Measured twice in an ordinary training loop.

Nothing here is a model of dtme-search: any transformer whose blocks share tokens will do.
"""

import torch
from torch import Tensor, nn

from dtme_search import measure_conflicts
from dtme_search.config import ExpansionConfig
from dtme_search.token_space import plan_expansion

TASKS = ("sign", "size")
BATCH = tuple[Tensor, Tensor, Tensor]


class Shared(nn.Module):
    """A small encoder with one output per task and token."""

    def __init__(self, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.outputs = nn.ModuleDict({task: nn.Linear(width, 1) for task in TASKS})

    def forward(self, inputs: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Predictions by task, and the tokens (B, L, P) that enter each block."""
        tokens, entered = self.embed(inputs), []
        for block in self.blocks:
            entered.append(tokens)
            tokens = block(tokens)
        return {task: output(tokens).squeeze(-1) for task, output in self.outputs.items()}, entered


def make_batch(seed: int) -> BATCH:
    """Eight sequences of twelve tokens; what the tasks want depends on the same numbers in different ways."""
    inputs = torch.randn(8, 12, 4, generator=torch.Generator().manual_seed(seed))
    return inputs, inputs.sum(-1).sign(), inputs.square().sum(-1)


def losses_of(model: Shared, batch: BATCH) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Loss of each task, and the tokens that enter each block: all that a measurement needs."""
    inputs, sign, size = batch
    predictions, entered = model(inputs)
    losses = {
        "sign": nn.functional.soft_margin_loss(predictions["sign"], sign),
        "size": (predictions["size"] - size).square().mean(),
    }
    return losses, entered


def main() -> None:
    """Train, and measure before the first and after the last step."""
    torch.manual_seed(0)
    model = Shared()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    fixed = [make_batch(1000 + index) for index in range(4)]  # the same in both passes of a measurement

    def measure(when: str) -> None:
        report = measure_conflicts(lambda: fixed, lambda batch: losses_of(model, batch), variance_ratio=100.0)
        print(f"{when}\n{report.table()}\n")
        config = ExpansionConfig(policy="conflict", range_layer_ratio=0.5, null_layer_ratio=0.25)
        plan = plan_expansion(report, config, TASKS, num_layers=len(model.blocks), seed=0)
        print("would grow:", " ".join(plan.operations()), "\n")

    measure("before the training")
    for step in range(60):
        losses, _ = losses_of(model, make_batch(step))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    measure("after 60 steps")


if __name__ == "__main__":
    main()
