"""What growth could gain at a layer, to first order: by how much the tasks pull its tokens apart.

Splitting a stream by token modulation with W = 1, b = 0 changes no output, so the gradients of a task's own
map are sums over its token gradients that the conflict analysis has already. A map that all tasks share could
follow the mean of these gradients; what only a split can gain is the rest:

    S = sum_k |v_k|^2 - |sum_k v_k|^2 / K = sum_k |v_k - mean v|^2

with v_k the mean over images of the gradient of task k, in units of the task's loss. |v|^2 is too large by
the noise of v; the mean over pairs of different images is not. Everything here is [ours]; GradMax
(2201.05125) and Firefly (NeurIPS 2020) rate new weights by their gradients before they exist.

Shapes: K tasks, I images, L tokens, P embedding dim, U entries of a gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dtme_search.errors import ConfigError
from dtme_search.token_space.text import format_table

GAINS = ("modulate", "expand")
"""Operations that are rated."""
_DIGITS = 6
"""Significant digits that are kept: how images were batched shows in later ones."""


def split_gain(gradients_KIU: Tensor) -> tuple[float, float, float]:
    """What tasks of their own gain over one for all, with its standard error, and how sure it is.

    Args:
        gradients_KIU: Gradient of each task and image, (K, I, U).

    Returns:
        ``S``, below 0 where there is nothing but noise; its standard error, leaving out one image at a time;
        and ``z``, S over its standard deviation if the signs of the images were drawn at random, so about
        normal where the tasks pull alike. NaN for fewer than 3 images.

    Example:
        >>> apart = torch.tensor([[[1.0], [1.0], [1.0]], [[-1.0], [-1.0], [-1.0]]])
        >>> split_gain(apart)
        (2.0, 0.0, 1.73205)
        >>> split_gain(apart.abs())
        (0.0, 0.0, 0.0)
    """
    count = gradients_KIU.shape[1]
    if count < 3:
        return (float("nan"),) * 3
    own_KIU = gradients_KIU.to(torch.float64)
    own_KIU = own_KIU - own_KIU.mean(0)
    products_II = torch.einsum("kiu,kju->ij", own_KIU, own_KIU)
    squares_I = products_II.diagonal()
    total = products_II.sum() - squares_I.sum()
    gain = total / (count * (count - 1))
    without_I = (total - 2 * (products_II.sum(1) - squares_I)) / ((count - 1) * (count - 2))
    error = ((count - 1) / count * (without_I - without_I.mean()).square().sum()).sqrt()
    spread = (2 * (products_II.square().sum() - squares_I.square().sum())).sqrt()
    z = total / spread if spread > 0 else torch.zeros(())
    return _rounded(gain), _rounded(error), _rounded(z)


def modulation_gradients(gradients_BLP: Tensor, tokens_BLP: Tensor) -> Tensor:
    """Gradient of a task's W and b at W = 1, b = 0, per image: (B, 2P)."""
    return torch.cat(((gradients_BLP * tokens_BLP).sum(1), gradients_BLP.sum(1)), dim=1)


def expansion_gradients(gradients_BLP: Tensor) -> Tensor:
    """Gradient of what a task's token would add to the values that attention mixes, per image: (B, P).

    To first order, with equal shares of the attention: a token more takes 1 / (L + 1) of each query.

    Args:
        gradients_BLP: Gradient of the task's loss with respect to what attention gives before its output map.
    """
    return gradients_BLP.sum(1) / (gradients_BLP.shape[1] + 1)


def layer_gains(
    gradients: dict[str, list[list[Tensor]]], mean_losses: Tensor, kept_I: Tensor | None
) -> Tensor:
    """Gains of all layers from the gradients of all batches, (3, operations, D): S, its error, z.

    Args:
        gradients: Operation -> batch -> layer -> gradients (K, B, U), per image; none for an operation that
            the layers do not show.
        mean_losses: Of the K tasks; makes gradients comparable as relative gains.
        kept_I: Images with labels of all tasks; ``None`` for all.
    """
    found = []
    for operation in GAINS:
        by_layer = [torch.cat(of_layer, dim=1) for of_layer in zip(*gradients[operation], strict=True)]
        # From the device at once: each transfer waits for it.
        relative = torch.stack(by_layer).cpu() / mean_losses[:, None, None] if by_layer else ()
        found.append([split_gain(each if kept_I is None else each[:, kept_I]) for each in relative])
    num_layers = max(len(each) for each in found)
    nothing = [(float("nan"),) * 3] * num_layers
    return torch.tensor([each or nothing for each in found], dtype=torch.float64).permute(2, 0, 1)


def ranking_by_gain(gains: Tensor | None, operation: str) -> tuple[int, ...]:
    """Layers, the surest gain first (by z); equal ones by lower layer index.

    Raises:
        ConfigError: If the gains of the operation could not be measured.
    """
    z = [] if gains is None else gains[2, GAINS.index(operation)].tolist()
    if not z or any(math.isnan(each) for each in z):
        raise ConfigError(
            "expansion.selection gain needs at least 3 images with labels of all tasks, and blocks whose "
            f"attention ends in a map attn.proj, got no gains of {operation}. Use selection conflict."
        )
    return tuple(sorted(range(len(z)), key=lambda layer: (-z[layer], layer)))


def gain_table(gains: Tensor | None) -> list[str]:
    """Lines of a table, one per layer: S with its standard error, and z, of each operation."""
    if gains is None:
        return []
    cells = [
        [f"{gain:+.1e} ± {error:.0e}  {z:+.1f}" if gain == gain else "?" for gain, error, z in of_layers]
        for of_layers in gains.permute(1, 2, 0).tolist()
    ]
    rows = [(str(layer), *each) for layer, each in enumerate(zip(*cells, strict=True))]
    return [
        "",
        "What splitting the tasks could gain, to first order (S ± standard error, z):",
        format_table(("layer", *GAINS), rows),
        "z above 2: more than chance, for a layer that was named in advance",
    ]


def _rounded(value: Tensor) -> float:
    return float(f"{value.item():.{_DIGITS}g}")
