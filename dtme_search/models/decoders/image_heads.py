"""Heads of tasks about the whole image, beside whatever decodes the dense tasks.

Shapes: B images, P embedding dim, C output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from dtme_search.models.decoders.base import DecoderContext, Level, Predictions, Predictor
from dtme_search.models.seeding import seeded
from dtme_search.models.task_modules import TaskModules


class WithImageHeads(nn.Module):
    """A decoder of dense tasks, and a linear head for every task about the whole image.

    A head reads the normed output of the last block in the stream of its task: the mean of the patches or the
    class token (``Level.summary_of``). One linear map follows, as in a ViT that classifies.

    Args:
        dense: Decoder of the dense tasks; ``None`` without any.
        heads: Per task, from (B, P, 1, 1) to (B, C, 1, 1).
    """

    def __init__(self, dense: nn.Module | None, heads: TaskModules) -> None:
        super().__init__()
        self.dense = dense
        self.heads = heads
        self.mixes_tasks = dense is not None and getattr(dense, "mixes_tasks", True)

    def forward(self, levels: Sequence[Level], tasks: Sequence[str]) -> Predictions:
        """See :class:`~dtme_search.models.decoders.Decoder`."""
        dense = [task for task in tasks if task not in self.heads]
        found = self.dense(levels, dense) if self.dense is not None and dense else Predictions({})
        of_image = {
            task: self.heads[task](levels[-1].summary_of(task)) for task in tasks if task in self.heads
        }
        outputs = found.outputs | of_image
        return Predictions({task: outputs[task] for task in tasks}, found.auxiliary)


def with_image_heads(
    context: DecoderContext, build_dense: Callable[[DecoderContext], nn.Module]
) -> nn.Module:
    """The decoder of all tasks of a context; that of the dense tasks alone if there are no others.

    Args:
        context: For all tasks.
        build_dense: Builds the decoder of the dense tasks for a context of them.
    """
    dense = context.of_dense_tasks
    if len(dense.specs) == len(context.specs):
        return build_dense(context)
    heads = TaskModules()
    for name, spec in context.specs.items():
        if spec.of_image:
            with seeded(context.seed, f"decoder/{name}"):
                heads[name] = Predictor(context.info.embed_dim, spec.channels, context.output_means.get(name))
    return WithImageHeads(build_dense(dense) if dense.specs else None, heads)
