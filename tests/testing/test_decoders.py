"""What authors of decoders are told: each mistake by its method and rule."""

import pytest
import torch
from torch import nn

from dtme_search.errors import ConfigError
from dtme_search.models.decoders import (
    DECODERS,
    DecoderKind,
    Predictions,
    Predictor,
    of_each_task,
    resize,
)
from dtme_search.testing import BrokenRule, check_decoder


class One(nn.Module):
    """A 1x1 convolution; right."""

    def __init__(self, context, spec, options):
        super().__init__()
        self.size, self.channels = context.image_size, spec.channels
        self.predictor = Predictor(context.info.embed_dim, spec.channels)

    def forward(self, maps):
        return resize(self.predictor(maps[-1]), self.size)


class Small(One):
    def forward(self, maps):
        return self.predictor(maps[-1])


class Failing(One):
    def forward(self, maps):
        return self.predict(maps[-1])


class Infinite(One):
    def forward(self, maps):
        return super().forward(maps) / 0


class Unused(One):
    def __init__(self, context, spec, options):
        super().__init__(context, spec, options)
        self.further = nn.Linear(2, 2)


class Leaking(One):
    def forward(self, maps):
        return super().forward(maps) + maps[-1].mean()


class All(nn.Module):
    """A decoder of all tasks; right."""

    def __init__(self, context, options):
        super().__init__()
        self.each = of_each_task(One)(context, options)

    def forward(self, levels, tasks):
        return self.each(levels, tasks)


class Everything(All):
    def forward(self, levels, tasks):
        return self.each(levels, list(self.each.keys()))


class Plain(All):
    def forward(self, levels, tasks):
        return self.each(levels, tasks).outputs


class Auxiliary(All):
    def forward(self, levels, tasks):
        return Predictions(self.each(levels, tasks).outputs, {"edge": ()})


class Odd(All):
    def forward(self, levels, tasks):
        outputs = self.each(levels, tasks).outputs
        return Predictions(outputs, {task: (output[:, 0],) for task, output in outputs.items()})


class Mixing(All):
    mixes_tasks = False

    def forward(self, levels, tasks):
        found = self.each(levels, tasks).outputs
        return Predictions({task: output * len(found) for task, output in found.items()})


class Unseeded(All):
    def __init__(self, context, options):
        super().__init__(context, options)
        self.each = One(context, next(iter(context.specs.values())), options)


def refuse(info, channels, options):
    raise ConfigError("model.decoder: not for this backbone.")


@pytest.mark.parametrize("name", DECODERS)
def test_built_in_decoders_pass(name):
    if name != "invpt":  # some of its parameters get no gradient, see the suite
        check_decoder(DECODERS[name], name=name)


def test_right_decoders_pass():
    check_decoder(DecoderKind(of_each_task(One)))
    check_decoder(DecoderKind(All))
    with pytest.raises(ConfigError, match="not for this backbone"):
        check_decoder(DecoderKind(All, check=refuse))


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (lambda *_: 1 / 0, r"build must not fail, got ZeroDivisionError"),
        (lambda *_: len, r"build must give a module, got builtin_function_or_method"),
        (Unseeded, r"build must follow the seed of the context"),
        (
            of_each_task(Small),
            r"forward must give \(B, C, H, W\) = \(2, 3, 32, 48\) for semseg, got \(2, 3, 4, 6\)",
        ),
        (of_each_task(Failing), r"forward must not fail, got AttributeError"),
        (of_each_task(Infinite), r"forward must give finite numbers"),
        (
            of_each_task(Unused),
            r"forward must use every parameter: .*further\.weight gets no finite gradient",
        ),
        (of_each_task(Leaking), r"forward must treat each image by itself in evaluation"),
        (Everything, r"forward must predict \['semseg'\], no more and no less, got \['semseg', 'depth'"),
        (Plain, r"forward must give Predictions, got dict"),
        (Auxiliary, r"forward must give auxiliary outputs of \['semseg', .*\] only, got edge"),
        (Odd, r"forward must give auxiliary outputs of 3 channels for semseg, got \(2, 32, 48\)"),
        (Mixing, r"mixes_tasks must be true where the outputs of a task depend on which others"),
    ],
)
def test_a_mistake_is_named(build, rule):
    expected = rf"^decoder 'mine': {rule}.*See docs/plugins\.md\.$"
    with pytest.raises(BrokenRule, match=expected) as caught:
        check_decoder(DecoderKind(build), name="mine")
    assert "\n" not in str(caught.value)


def test_a_check_that_fails_is_named():
    with pytest.raises(BrokenRule, match=r"^decoder 'mine': check must not fail, got AttributeError"):
        check_decoder(DecoderKind(All, check=lambda info, channels, options: info.depth), name="mine")


def test_random_numbers_elsewhere_are_left_alone():
    torch.manual_seed(0)
    first = torch.rand(1)
    torch.manual_seed(0)
    check_decoder(DecoderKind(All))
    assert torch.rand(1) == first
