"""One suite over all decoders, and where regression outputs start."""

from __future__ import annotations

import pytest
import torch

from dtme_search.config import ModelConfig
from dtme_search.models import build_model
from dtme_search.models.decoders import DECODERS
from dtme_search.tasks import depth, normals

NUM_PARAMETERS = {
    # 3x3 conv without bias, BN scale and shift, 1x1 conv with bias
    "simple": lambda inputs, width, outputs: 9 * inputs * width + 2 * width + width * outputs + outputs,
}


@pytest.fixture(params=DECODERS)
def name(request):
    return request.param


@pytest.fixture(params=[1, 4], ids=["one level", "four levels"])
def maps(request):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 12, 3, 4, generator=generator, requires_grad=True) for _ in range(request.param)]


def build(name, num_levels=1, out_channels=3, output_mean=None):
    torch.manual_seed(0)
    return DECODERS[name](
        in_channels=12 * num_levels,
        channels=8,
        out_channels=out_channels,
        image_size=(24, 32),
        output_mean=output_mean,
    )


def test_predictions_have_image_size_and_finite_gradients(name, maps):
    decoder = build(name, len(maps))
    output = decoder(maps)
    assert output.shape == (2, 3, 24, 32)
    output.square().sum().backward()
    for tensor in [*maps, *decoder.parameters()]:
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0


def test_parameters_are_as_many_as_the_formula_says(name, maps):
    decoder = build(name, len(maps))
    count = sum(parameter.numel() for parameter in decoder.parameters())
    assert count == NUM_PARAMETERS[name](12 * len(maps), 8, 3)


def test_inputs_are_left_as_they_are(name, maps):
    copies = [feature_map.detach().clone() for feature_map in maps]
    build(name, len(maps))(maps)
    assert all(torch.equal(*pair) for pair in zip(copies, maps, strict=True))


def test_an_image_does_not_depend_on_its_batch_in_evaluation(name, maps):
    decoder = build(name, len(maps)).eval()
    torch.testing.assert_close(decoder([feature_map[:1] for feature_map in maps]), decoder(maps)[:1])


def test_the_mean_is_where_predictions_start(name, maps):
    mean = torch.tensor([2.7, -0.4, 100.0])
    without = build(name, len(maps))(maps)
    torch.testing.assert_close(build(name, len(maps), output_mean=mean)(maps), without + mean[:, None, None])
    assert without.mean(dim=(0, 2, 3)).abs().max() < 1.0
    assert without.std(dim=(0, 2, 3)).min() > 0, "the image must still show"


def test_a_mean_of_another_size_is_refused(name):
    with pytest.raises(ValueError, match=r"output_mean must have shape \(3,\), got \(2,\)"):
        build(name, output_mean=torch.zeros(2))


@pytest.fixture(scope="module")
def specs():
    return {"depth": depth(), "normals": normals()}


def test_a_model_starts_regression_at_the_training_mean(specs):
    options = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8}
    model = build_model(
        ModelConfig(backbone_options=options, decoder_channels=16),
        specs,
        (16, 24),
        seed=0,
        output_means={"depth": torch.tensor([3.0])},
    )
    outputs = model(torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)))
    assert outputs["depth"].mean().item() == pytest.approx(3.0, abs=0.7)
    assert outputs["normals"].mean().item() == pytest.approx(0.0, abs=0.7)
    head = sum(parameter.numel() for parameter in model.decoders["normals"].parameters())
    assert head == NUM_PARAMETERS["simple"](32, 16, 3)


def test_a_mean_of_an_unknown_task_is_refused(specs):
    with pytest.raises(ValueError, match="output_means must name some of"):
        build_model(ModelConfig(), specs, (16, 16), seed=0, output_means={"dept": torch.zeros(1)})
