"""A decoder of one task, from a list of maps (B, P, h, w) to (B, C, H, W)."""

from torch import nn

from dtme_search.config import Section
from dtme_search.models.decoders import DecoderKind, Predictor, of_each_task, resize


class Options(Section):
    """What YAML may say in model.decoder_options.wave."""

    width: int = 8


class Wave(nn.Module):
    """A 1x1 convolution and a sine in place of ReLU."""

    def __init__(self, context, spec, options):
        super().__init__()
        self.size = context.image_size
        self.squeeze = nn.Conv2d(context.info.embed_dim, options.width, 1)
        self.predictor = Predictor(options.width, spec.channels, context.output_means.get(spec.name))

    def forward(self, maps):
        return resize(self.predictor(self.squeeze(maps[-1]).sin()), self.size)


WAVE = DecoderKind(of_each_task(Wave), Options)
