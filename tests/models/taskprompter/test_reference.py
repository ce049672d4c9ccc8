"""TaskPrompter against arrays that the authors' modules produced, which lie outside of the project."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from dtme_search.models.taskprompter import (
    LevelDecoder,
    PromptBlock,
    PromptedMap,
    PrompterDecoder,
    PrompterHead,
    TaskPrompts,
    windows_per_side,
)

FOLDER = Path(__file__).parents[4] / "shared" / "data" / "reference"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference arrays are not here")

TASKS = {"semseg": 5, "sal": 2, "normals": 3}
WIDTH, NUM_BLOCKS, NUM_HEADS, GRID, IMAGE_SIZE = 48, 8, 4, (4, 8), (64, 128)
LEVELS = (2, 4, 6, 8)
VARIANTS = ("hc1_plain", "hc1_ctr", "hc4_plain", "hc4_ctr")
CASES = pytest.mark.parametrize(("variant", "mode"), [(v, m) for v in VARIANTS for m in ("eval", "train")])


class Assembled(nn.Module):
    """The parts put together as the paper has them: one stream, no growth."""

    def __init__(self, channel_heads, reweighted):
        from timm.models.vision_transformer import VisionTransformer

        super().__init__()
        self.vit = VisionTransformer(
            img_size=IMAGE_SIZE,
            embed_dim=WIDTH,
            depth=NUM_BLOCKS,
            num_heads=NUM_HEADS,
            num_classes=0,
            class_token=False,
            global_pool="",
        )
        self.prompts = TaskPrompts(len(TASKS), WIDTH)
        self.blocks = nn.ModuleList(
            PromptBlock(block, GRID, len(TASKS), last=index == NUM_BLOCKS - 1)
            for index, block in enumerate(self.vit.blocks)
        )
        self.decoder = PrompterDecoder(
            [LevelDecoder(tuple(TASKS), WIDTH, 24, 20, NUM_HEADS if reweighted else None) for _ in LEVELS],
            {task: PrompterHead(20, channels, IMAGE_SIZE) for task, channels in TASKS.items()},
        )
        self.num_windows = windows_per_side(channel_heads, GRID)

    def forward(self, images):
        tokens = self.prompts(self.vit._pos_embed(self.vit.patch_embed(images)))
        self.inputs, self.features, self.scores, levels = [], [], [], []
        for index, block in enumerate(self.blocks):
            self.inputs.append(tokens)
            after = block(tokens)
            if index + 1 in LEVELS:
                last = index + 1 == NUM_BLOCKS
                scores = block.scores(tokens, self.num_windows)
                patches = self.vit.norm(after[:, :32]) if last else after[:, :32]
                self.scores.append(scores)
                levels.append(
                    {
                        task: PromptedMap(
                            patches.transpose(1, 2).unflatten(-1, GRID),
                            scores.patches[:, row].unflatten(-1, GRID),
                            scores.prompts[:, row],
                            scores.channels[:, row],
                        )
                        for row, task in enumerate(TASKS)
                    }
                )
            tokens = after
        self.inputs.append(tokens)
        self.levels = levels
        return self.decoder(levels)


def original_names(reweighted):
    """Our names -> those of the original's state dict."""
    for name in ("patch_embed.proj", "norm"):
        yield f"vit.{name}", f"backbone.{name}"
    for block in range(NUM_BLOCKS):
        for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            yield f"blocks.{block}.block.{name}", f"backbone.blocks.{block}.{name}"
        yield f"blocks.{block}.to_positions", f"backbone.blocks.{block}.attn.token_trans"
        if block < NUM_BLOCKS - 1:
            yield f"blocks.{block}.to_channels", f"backbone.blocks.{block}.attn.token_trans1"
    for task in TASKS:
        for level in range(4):
            feature = f"decoder.levels.{level}.features.{task}"
            yield f"{feature}.spatial", f"backbone.fea_decode_spa.{level}.{task}.0"
            yield f"{feature}.channel", f"backbone.fea_decode_chan.{level}.{task}.0"
            for index in (0, 1, 2, 4):
                yield f"{feature}.fuse.{index}", f"backbone.fea_fuse.{level}.{task}.{index}"
            for index in (0, 2) if reweighted else ():
                ours = f"decoder.levels.{level}.reweightings.{task}.weigh.{index}"
                yield ours, f"backbone.ctr_attn_conv.{level}.{task}.{index}"
        yield f"decoder.heads.{task}.conv", f"heads.{task}.mt_proj.0"
        yield f"decoder.heads.{task}.norm", f"heads.{task}.mt_proj.1"
        yield f"decoder.heads.{task}.predictor", f"heads.{task}.linear_pred"


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
        model = Assembled(int(variant[2]), reweighted)
        weights = {
            "prompts.tokens": arrays["weights/backbone.task_prompts"],
            "vit.pos_embed": arrays["weights/backbone.pos_embed"][:, 1:],
        }
        for ours, theirs in original_names(reweighted):
            for part in ("weight", "bias", "running_mean", "running_var"):
                if f"weights/{theirs}.{part}" in arrays:
                    weights[f"{ours}.{part}"] = arrays[f"weights/{theirs}.{part}"]
        expected = {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
        # Blocks are known under two names here.
        assert {name for name in expected if not name.startswith("vit.blocks")} == set(weights)
        model.load_state_dict(weights, strict=False)
        return model.to(dtype).train(mode == "train")

    return make


def assert_near(actual, expected, dtype, *, gradient=False):
    """float64: 1e-6 of each value (of the largest where sums cancel); float32 as the original itself."""
    largest = expected.abs().max().item()
    if dtype is torch.float64:
        rtol, atol = 1e-6, 1e-7 * largest
    else:
        rtol, atol = 0.0, 1e-5 * largest if gradient else 2e-5
    torch.testing.assert_close(actual, expected.to(dtype), rtol=rtol, atol=atol)


def scalars_of(outputs, arrays):
    return {task: (output * arrays[f"probe/{task}"].to(output)).sum() for task, output in outputs.items()}


@CASES
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_predictions_and_gradients(make, arrays, variant, mode, dtype):
    model = make(variant, mode, dtype)
    for head in model.decoder.heads.values():
        head.image_size = (16, 32)
    place = f"{variant}/{mode}"
    low = model(arrays["image"].to(dtype))
    for task, output in low.items():
        assert_near(output, arrays[f"{place}/lowres/{task}"], dtype)
    model = make(variant, mode, dtype)
    scalars = scalars_of(model(arrays["image"].to(dtype)), arrays)
    for task, scalar in scalars.items():
        assert_near(scalar[None], arrays[f"{place}/scalar/{task}"], dtype)
    inputs = model.inputs[:NUM_BLOCKS]
    total = sum(scalars.values())
    *per_block, at_prompts = torch.autograd.grad(total, [*inputs, model.prompts.tokens], retain_graph=True)
    per_block = torch.stack(per_block)
    assert_near(per_block[:, :, :32], arrays[f"{place}/grad_block_input"], dtype, gradient=True)
    after_first = arrays[f"{place}/grad_prompts_input_from_block1"]
    assert_near(per_block[1:, :, 32:], after_first, dtype, gradient=True)
    assert_near(at_prompts, arrays[f"{place}/grad_task_prompts"], dtype, gradient=True)
    if variant == "hc4_ctr":
        for task, scalar in scalars.items():
            own = torch.stack(torch.autograd.grad(scalar, inputs, retain_graph=True))[:, :, :32]
            assert_near(own, arrays[f"{place}/grad_block_input_task/{task}"], dtype, gradient=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_everything_in_between(make, arrays, dtype):
    model = make("hc4_ctr", "eval", dtype)
    outputs = model(arrays["image"].to(dtype))
    assert_near(model.inputs[0][:, :32], arrays["hc4_ctr/eval/block_input_0"], dtype)
    for task, output in outputs.items():
        assert_near(output[:1], arrays[f"hc4_ctr/eval/full_sample0/{task}"], dtype)
    inner = "hc4_ctr/eval/inner_sample0"
    for block, after in enumerate(model.inputs[1:]):
        assert_near(after[:1, :32], arrays[f"{inner}/block{block}_output"], dtype)
        if block < NUM_BLOCKS - 1:  # the prompts that leave the last block are read by nothing
            assert_near(after[:1, 32:], arrays[f"{inner}/block{block}_prompts"], dtype)
    for level, num_blocks in enumerate(LEVELS):
        scores = model.scores[level]
        rows_NHTK = torch.cat((scores.prompts, scores.patches), dim=-1).transpose(1, 2)
        assert_near(rows_NHTK[:1], arrays[f"{inner}/block{num_blocks - 1}_raw_spatial_prompt_rows"], dtype)
        assert_near(scores.channels[:1], arrays[f"{inner}/block{num_blocks - 1}_raw_channel"], dtype)
        for task, feature in model.decoder.levels[level](model.levels[level]).items():
            assert_near(feature[:1], arrays[f"{inner}/level{level}_feature/{task}"], dtype)
