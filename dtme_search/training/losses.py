"""The training loss of each kind of task, averaged over valid pixels.

Invalid pixels are removed before any arithmetic: whatever their target holds (NaN, infinity, a class that
does not exist), neither the loss nor a gradient depends on it. A batch without a valid pixel has loss 0,
still connected to the prediction, so that every decoder receives a (zero) gradient.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid, normalize

from dtme_search.config import NoOptions, Section
from dtme_search.guards import Guard, shape_or_type
from dtme_search.plugins import Family
from dtme_search.tasks import LabelLevel, TargetKind, TaskSpec

_SHORTEST_NORMAL = 1e-4
"""Predicted normals shorter than this are not stretched to unit length, which bounds the gradient [ours]."""


@dataclass(frozen=True)
class LossSetting:
    """What a loss may use besides prediction and target.

    Attributes:
        spec: The task.
        positive_weight: Weight of positives in a balanced loss.
        options: Its own options, checked.
    """

    spec: TaskSpec
    positive_weight: float | Tensor
    options: Section


@dataclass(frozen=True)
class LossKind:
    """Entry of the registry.

    Attributes:
        per_pixel: From prediction (B, C, H, W) and target (``TaskSpec.kind`` classes: int64 (B, H, W), else
            (B, C, H, W)), both float32 and 0 where the target does not count, to the loss of each pixel,
            float32 (B, H, W).
        kinds: Kinds of targets that it suits.
        options: Section that checks ``tasks.<task>.loss_options.<name>``.
        level: Whether labels belong to pixels or whole images (of one pixel, H = W = 1); either by default.
    """

    per_pixel: Callable[[Tensor, Tensor, LossSetting], Tensor]
    kinds: tuple[TargetKind, ...]
    options: type[Section] = NoOptions
    level: LabelLevel = "any"


def guarded_loss(kind: LossKind, part: str) -> LossKind:
    """The same loss; it tells which rule it breaks."""
    guard, method = Guard(part), "per_pixel"

    def per_pixel(prediction: Tensor, target: Tensor, setting: LossSetting) -> Tensor:
        with guard.calling(method):
            found = kind.per_pixel(prediction, target, setting)
        shape = (len(prediction), *prediction.shape[2:])
        got = shape_or_type(found, Tensor)
        guard.hold(got == shape, method, f"give (B, H, W) = {shape}, got {got}")
        guard.hold(found.dtype == torch.float32, method, f"give float32, got {found.dtype}")
        # A prediction that is not finite itself is left to the loss log, which names the task.
        holds = bool(found.isfinite().all()) or not bool(prediction.isfinite().all())
        guard.hold(holds, method, "give finite numbers where prediction and target are")
        return found

    return replace(kind, per_pixel=per_pixel)


Loss = tuple[LossKind, Section]
"""A loss with its options."""


def find_loss(spec: TaskSpec) -> Loss:
    """The loss of a task.

    Raises:
        ConfigError: If it is unknown, or comes from a file or package that cannot be used.
    """
    kind = LOSSES.find(spec.loss, f"loss of task {spec.name}", spec.plugins)
    return kind, kind.options.model_validate(dict(spec.loss_options))


def task_loss(
    spec: TaskSpec,
    prediction: Tensor,
    target: Tensor,
    valid: Tensor,
    *,
    edge_positive_weight: float,
    whole: tuple[Tensor, Tensor] | None = None,
    loss: Loss | None = None,
) -> Tensor:
    """Loss of one task over one batch, always computed in float32.

    The losses are those of InvPT and TaskPrompter, which the DTME paper builds on; all divide by
    the number n of valid pixels of the batch (1 where there is none). A label of a whole image is one pixel,
    so that n is the number of labelled images:

    - ``cross_entropy``: sum of the cross-entropy / n.
    - ``parts_cross_entropy``: the same over the images that show a part. Images whose valid pixels are all of
      class 0 (background) do not count, and n excludes them.
    - ``l1``: sum of |p - g| / n; several channels are averaged [ours].
    - ``mse``: sum of (p - g)^2 / n; several channels are averaged [ours].
    - ``normals_l1``: the prediction is scaled to unit length, the target is not; |p - g| summed over the
      three channels and the pixels / n.
    - ``bce``: with s = sigmoid(p), the sum of -[g log s + (1 - g) log(1 - s)] / n; several channels, which
      are labels of an image, are averaged [ours].
    - ``balanced_bce``: with s = sigmoid(p) and w = ``edge_positive_weight``, the sum of
      -[w g log s + (1 - w) (1 - g) log(1 - s)] / n.
    - ``batch_balanced_bce``: the same with w = share of negatives among the valid pixels of the batch.

    Args:
        spec: Task; names the loss.
        prediction: Raw output of the decoder, any float type, shape (B, C, H, W).
        target: Classes int64 (B, H, W); every other kind float32 (B, C, H, W).
        valid: Where the target counts, bool (B, 1, H, W).
        edge_positive_weight: Weight of edge pixels, between 0 and 1; read by ``balanced_bce`` only.
        whole: Target and valid of the batch that this is a part of. n and the share of negatives are then
            those of the whole batch, so that the losses of its parts add up to its loss.
        loss: Result of :func:`find_loss`, to avoid a lookup per batch.

    Returns:
        float32 scalar, differentiable with respect to ``prediction``.

    Raises:
        ValueError: If the shapes do not match.

    Example:
        >>> from dtme_search.tasks import depth
        >>> prediction, target = torch.tensor([[[[1.0, 5.0]]]]), torch.tensor([[[[3.0, float("nan")]]]])
        >>> valid = torch.tensor([[[[True, False]]]])
        >>> task_loss(depth(), prediction, target, valid, edge_positive_weight=0.95)
        tensor(2.)
    """
    _check_shapes(spec, prediction, target, valid)
    kept_target, valid = _counted(spec, target, valid)
    batch_target, batch_valid = (kept_target, valid) if whole is None else _counted(spec, *whole)
    kept_prediction = torch.where(valid, prediction, 0.0).float()
    num_valid = batch_valid.sum().clamp(min=1)
    positive_weight: float | Tensor = edge_positive_weight
    if spec.loss == "batch_balanced_bce":
        positive_weight = 1.0 - batch_target.sum() / num_valid
    kind, options = loss or find_loss(spec)
    setting = LossSetting(spec, positive_weight, options)
    per_pixel = kind.per_pixel(kept_prediction, kept_target, setting)
    total = torch.where(valid[:, 0], per_pixel, 0.0).sum()
    return total / num_valid


def has_label(spec: TaskSpec, target: Tensor, valid: Tensor) -> Tensor:
    """Whether the loss uses any pixel of each image, bool (B,); shapes as for :func:`task_loss`."""
    return _counted(spec, target, valid)[1].flatten(1).any(1)


def _counted(spec: TaskSpec, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Targets with 0 where they do not count, and where they count."""
    if spec.loss == "parts_cross_entropy":
        valid = valid & (valid[:, 0] & (target > 0)).any((1, 2))[:, None, None, None]
    return torch.where(valid[:, 0] if spec.kind == "classes" else valid, target, 0), valid


def _cross_entropy(prediction: Tensor, target: Tensor, _: LossSetting) -> Tensor:
    # Without reduction, because the reduced form has no deterministic kernel on CUDA.
    return cross_entropy(prediction, target, reduction="none")


def _l1(prediction: Tensor, target: Tensor, _: LossSetting) -> Tensor:
    return (prediction - target).abs().mean(1)


def _mse(prediction: Tensor, target: Tensor, _: LossSetting) -> Tensor:
    return (prediction - target).square().mean(1)


def _normals_l1(prediction: Tensor, target: Tensor, _: LossSetting) -> Tensor:
    return (normalize(prediction, dim=1, eps=_SHORTEST_NORMAL) - target).abs().sum(1)


def _bce(prediction: Tensor, target: Tensor, _: LossSetting) -> Tensor:
    return binary_cross_entropy_with_logits(prediction, target, reduction="none").mean(1)


def _balanced_bce(prediction: Tensor, target: Tensor, setting: LossSetting) -> Tensor:
    positive_weight = setting.positive_weight
    positive = positive_weight * target * logsigmoid(prediction)
    negative = (1.0 - positive_weight) * (1.0 - target) * logsigmoid(-prediction)
    return -(positive + negative).mean(1)


LOSSES = Family(
    "losses",
    LossKind,
    {
        "cross_entropy": LossKind(_cross_entropy, ("classes",)),
        "parts_cross_entropy": LossKind(_cross_entropy, ("classes",), level="pixels"),
        "l1": LossKind(_l1, ("distance", "values")),
        "mse": LossKind(_mse, ("distance", "values")),
        "normals_l1": LossKind(_normals_l1, ("normals",)),
        "bce": LossKind(_bce, ("mask",)),
        "balanced_bce": LossKind(_balanced_bce, ("mask",)),
        "batch_balanced_bce": LossKind(_balanced_bce, ("mask",)),
    },
    guarded_loss,
)
"""``TaskSpec.loss`` -> how a pixel is scored."""


def _check_shapes(spec: TaskSpec, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
    num_images, _, height, width = prediction.shape
    shapes = {
        "prediction": (prediction, (num_images, spec.channels, height, width)),
        "target": (
            target,
            (num_images, height, width) if spec.kind == "classes" else tuple(prediction.shape),
        ),
        "valid": (valid, (num_images, 1, height, width)),
    }
    for name, (tensor, shape) in shapes.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"loss of task '{spec.name}': {name} must have shape {shape}, got {tuple(tensor.shape)}. "
                "Pass tensors as data.base.Batch describes them."
            )
