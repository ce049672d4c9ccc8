"""Parts of a batch, one after the other, make the step of the whole."""

import pytest
import torch
from runs import CPU, trainer, with_
from tiny import TINY
from torch import nn

from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.errors import ConfigError

CONFIG = RunConfig.model_validate(TINY)


def gradients(accumulate, data, batch):
    run = trainer(with_(CONFIG, train__accumulate=accumulate), data)
    run.model.train()
    for norm in run.model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()  # batch norm sees one part at a time
    seen = []
    patches = run.model.backbone.vit.patch_embed
    patches.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    run._train_step(batch)
    named = run.model.named_parameters()
    return {name: one.grad.clone() for name, one in named if one.grad is not None}, seen


@pytest.mark.parametrize("accumulate", [2, 4])
def test_the_gradient_is_that_of_the_whole_batch(accumulate):
    data = build_data(CONFIG.data, tuple(CONFIG.tasks), CPU)
    batch = next(iter(data.train_batches(CONFIG.train.batch_size, 0)))
    whole, _ = gradients(1, data, batch)
    parts, seen = gradients(accumulate, data, batch)
    assert set(seen) == {CONFIG.train.batch_size // accumulate}
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_number_that_does_not_divide_the_batch_is_refused():
    with pytest.raises((ConfigError, ValueError), match=r"accumulate must divide batch_size \(4\), got 3"):
        with_(CONFIG, train__accumulate=3)
