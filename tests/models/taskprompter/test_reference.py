"""TaskPrompter against arrays that the authors' modules produced, which lie outside of the project."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

from dtme_search.config import ModelConfig
from dtme_search.models import build_model
from dtme_search.tasks import normals, sal, semseg

FOLDER = Path(__file__).parents[4] / "shared" / "data" / "reference"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference arrays are not here")

# The original's saliency has two outputs and a softmax, ours one and a sigmoid.
SPECS = {"semseg": semseg(tuple("abcde")), "sal": replace(sal(), channels=2), "normals": normals()}
NUM_BLOCKS, NUM_PROMPTS, GRID, IMAGE_SIZE = 8, 3, (4, 8), (64, 128)
LEVELS = (2, 4, 6, 8)
VARIANTS = ("hc1_plain", "hc1_ctr", "hc4_plain", "hc4_ctr")
CASES = pytest.mark.parametrize(("variant", "mode"), [(v, m) for v in VARIANTS for m in ("eval", "train")])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def original_names(reweighted):
    """Our names -> those of the original's state dict."""
    for name in ("patch_embed.proj", "norm"):
        yield f"backbone.vit.{name}", f"backbone.{name}"
    for block in range(NUM_BLOCKS):
        for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            yield f"backbone.vit.blocks.{block}.block.{name}", f"backbone.blocks.{block}.{name}"
        yield f"backbone.vit.blocks.{block}.to_positions", f"backbone.blocks.{block}.attn.token_trans"
        if block < NUM_BLOCKS - 1:
            yield f"backbone.vit.blocks.{block}.to_channels", f"backbone.blocks.{block}.attn.token_trans1"
    for task in SPECS:
        for level in range(4):
            feature = f"decoders.levels.{level}.features.{task}"
            yield f"{feature}.spatial", f"backbone.fea_decode_spa.{level}.{task}.0"
            yield f"{feature}.channel", f"backbone.fea_decode_chan.{level}.{task}.0"
            for index in (0, 1, 2, 4):
                yield f"{feature}.fuse.{index}", f"backbone.fea_fuse.{level}.{task}.{index}"
            for index in (0, 2) if reweighted else ():
                ours = f"decoders.levels.{level}.reweightings.{task}.weigh.{index}"
                yield ours, f"backbone.ctr_attn_conv.{level}.{task}.{index}"
        yield f"decoders.heads.{task}.conv", f"heads.{task}.mt_proj.0"
        yield f"decoders.heads.{task}.norm", f"heads.{task}.mt_proj.1"
        yield f"decoders.heads.{task}.predictor", f"heads.{task}.linear_pred"


@pytest.fixture(scope="module")
def arrays():
    found = {}
    for name in ("taskprompter_vit", "taskprompter_vit_grads"):
        with numpy.load(FOLDER / f"{name}.npz") as file:
            found |= {key: torch.from_numpy(file[key]) for key in file.files}
    return found


@pytest.fixture
def make(arrays):
    def make(variant, mode, dtype):
        reweighted = variant.endswith("ctr")
        options = {"branch_channels": 24, "channel_heads": int(variant[2]), "reweighting": reweighted}
        config = ModelConfig(
            architecture="taskprompter",
            architecture_options={"taskprompter": options},
            backbone_options={"embed_dim": 48, "depth": NUM_BLOCKS, "num_heads": 4},
            decoder_channels=20,
        )
        model = build_model(config, SPECS, IMAGE_SIZE, seed=0)
        weights = {
            "backbone.prompts": arrays["weights/backbone.task_prompts"],
            "backbone.vit.pos_embed": arrays["weights/backbone.pos_embed"][:, 1:],
        }
        for ours, theirs in original_names(reweighted):
            for part in ("weight", "bias", "running_mean", "running_var"):
                if f"weights/{theirs}.{part}" in arrays:
                    weights[f"{ours}.{part}"] = arrays[f"weights/{theirs}.{part}"]
        missing, unexpected = model.load_state_dict(weights, strict=False)
        assert not unexpected
        assert all(name.endswith("num_batches_tracked") for name in missing)
        return model.to(dtype).train(mode == "train")

    return make


def assert_near(actual, expected, dtype, *, gradient=False):
    """float64: 1e-6 of each value (1e-7 of the largest where sums cancel); float32 as the original itself."""
    largest = expected.abs().max().item()
    if dtype is torch.float64:
        rtol, atol = 1e-6, 1e-7 * largest
    else:
        rtol, atol = 0.0, 1e-5 * largest if gradient else 2e-5
    torch.testing.assert_close(actual, expected.to(dtype), rtol=rtol, atol=atol)


def scalars_of(outputs, arrays):
    return {task: (output * arrays[f"probe/{task}"].to(output)).sum() for task, output in outputs.items()}


@CASES
@DTYPES
def test_predictions_and_gradients(make, arrays, variant, mode, dtype):
    place, images = f"{variant}/{mode}", arrays["image"].to(dtype)
    low = make(variant, mode, dtype)
    for head in low.decoders.heads.values():
        head.image_size = (16, 32)
    for task, output in low(images).items():
        assert_near(output, arrays[f"{place}/lowres/{task}"], dtype)

    model = make(variant, mode, dtype)
    predictions, inputs = model.forward_with_layer_inputs(images)
    scalars = {
        task: (output * arrays[f"probe/{task}"].to(output)).sum()
        for task, output in predictions.outputs.items()
    }
    for task, scalar in scalars.items():
        assert_near(scalar[None], arrays[f"{place}/scalar/{task}"], dtype)
    total = torch.stack(tuple(scalars.values())).sum()
    *per_block, prompts = torch.autograd.grad(total, [*inputs, model.backbone.prompts], retain_graph=True)
    at_prompts, at_patches = torch.stack(per_block).tensor_split([NUM_PROMPTS], dim=2)
    for found, name in (
        (at_patches, "grad_block_input"),
        (at_prompts[1:], "grad_prompts_input_from_block1"),
        (prompts, "grad_task_prompts"),
    ):
        assert_near(found, arrays[f"{place}/{name}"], dtype, gradient=True)
    for task, scalar in scalars.items() if variant == "hc4_ctr" else ():
        own = torch.stack(torch.autograd.grad(scalar, inputs, retain_graph=True))[:, :, NUM_PROMPTS:]
        assert_near(own, arrays[f"{place}/grad_block_input_task/{task}"], dtype, gradient=True)


@DTYPES
def test_everything_in_between(make, arrays, dtype):
    model = make("hc4_ctr", "eval", dtype)
    seen, levels = [], []
    for block in model.backbone.blocks:
        block.register_forward_hook(lambda _, inputs, output: seen.append((*inputs, output)))
    for decoder in model.decoders.levels:
        decoder.register_forward_hook(lambda _, inputs, features: levels.append(features))
    outputs = model(arrays["image"].to(dtype))

    assert_near(seen[0][0][:, NUM_PROMPTS:], arrays["hc4_ctr/eval/block_input_0"], dtype)
    inner = "hc4_ctr/eval/inner_sample0"
    for block, (_, output) in enumerate(seen):
        tokens, *scores = output if isinstance(output, tuple) else (output,)
        prompts, patches = tokens[:1].tensor_split([NUM_PROMPTS], dim=1)
        assert_near(patches, arrays[f"{inner}/block{block}_output"], dtype)
        if block < NUM_BLOCKS - 1:  # the prompts that leave the last block are read by nothing
            assert_near(prompts, arrays[f"{inner}/block{block}_prompts"], dtype)
        assert bool(scores) == (block + 1 in LEVELS)
        if scores:
            to_patches, to_prompts, channels = (one[:1] for one in scores)
            rows_NHTK = torch.cat((to_prompts, to_patches), dim=-1).transpose(1, 2)
            assert_near(rows_NHTK, arrays[f"{inner}/block{block}_raw_spatial_prompt_rows"], dtype)
            assert_near(channels, arrays[f"{inner}/block{block}_raw_channel"], dtype)
    for level, features in enumerate(levels):
        for task, feature in features.items():
            assert_near(feature[:1], arrays[f"{inner}/level{level}_feature/{task}"], dtype)
    for task, output in outputs.items():
        assert_near(output[:1], arrays[f"hc4_ctr/eval/full_sample0/{task}"], dtype)
