"""A decoder, a loss and a metric of one's own; study.yaml names this file."""

import torch
from torch import nn

from dtme_search.config import Section
from dtme_search.metrics import MetricKind
from dtme_search.models.decoders import DecoderKind, Predictor, of_each_task, resize
from dtme_search.training.losses import LossKind


class GatedOptions(Section):
    """What YAML may say in model.decoder_options.gated."""

    width: int = 16


class Gated(nn.Module):
    """Decoder of one task: half of the channels decide how much of the other half passes."""

    def __init__(self, context, spec, options):
        super().__init__()
        self.size = context.image_size
        self.both = nn.Conv2d(context.info.embed_dim * context.num_levels, 2 * options.width, 3, padding=1)
        self.predictor = Predictor(options.width, spec.channels, context.output_means.get(spec.name))

    def forward(self, maps):
        values, gates = self.both(maps[-1]).chunk(2, dim=1)
        return resize(self.predictor(values * gates.sigmoid()), self.size)


class LogCoshOptions(Section):
    """What YAML may say in tasks.TASK.loss_options.log_cosh."""

    scale: float = 1.0


def log_cosh(prediction, target, setting):
    """Like the square near zero and like the distance far away; per pixel, (B, C, H, W) to (B, H, W)."""
    away = (prediction - target).abs() / setting.options.scale
    # log(cosh(x)) = x + log(1 + exp(-2 x)) - log(2), without overflow.
    return (away + nn.functional.softplus(-2 * away) - torch.log(torch.tensor(2.0))).mean(1)


class RelativeError:
    """Mean of |prediction - target| / target, the usual relative error of depth."""

    def __init__(self, spec, options):
        self.reset()

    def reset(self):
        self.sum = torch.zeros((), dtype=torch.float64)
        self.count = 0

    def update(self, prediction, target, valid):
        prediction, target = prediction[valid].double(), target[valid].double()
        self.sum += ((prediction - target).abs() / target).sum().cpu()
        self.count += int(valid.sum())

    def compute(self):
        if self.count == 0:
            raise ValueError("no valid pixels: the relative error is not defined.")
        return float(self.sum / self.count)


PLUGINS = {
    "decoders": {"gated": DecoderKind(of_each_task(Gated), GatedOptions)},
    "losses": {"log_cosh": LossKind(log_cosh, ("distance", "values"), LogCoshOptions)},
    "metrics": {
        "relative_error": MetricKind(RelativeError, ("distance",), unit="fraction", higher_is_better=False)
    },
}
