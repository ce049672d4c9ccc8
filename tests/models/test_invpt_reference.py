"""InvPT against arrays that the authors' modules produced, which lie outside of the project."""

from __future__ import annotations

import re
from pathlib import Path

import numpy
import pytest
import torch

from dtme_search.config import ModelConfig
from dtme_search.models import build_model
from dtme_search.models.decoders import DecoderContext, Level, find_decoder, resize
from dtme_search.models.decoders.invpt_stage import CrossTaskAttention
from dtme_search.tasks import depth, edge, normals, semseg
from dtme_search.token_space import measure_conflicts

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "reference"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference arrays are not here")

SPECS = {spec.name: spec for spec in (semseg(tuple("abcde")), depth(), normals(), edge())}
TASKS = tuple(SPECS)
CASES = pytest.mark.parametrize(("case", "mode"), [(c, m) for c in "ab" for m in ("eval", "train")])
SIZES = {"a": (64, 128), "b": (128, 128)}
CONFIG = ModelConfig(
    backbone="vit_tiny_patch16_224",
    backbone_options={"embed_dim": 48, "depth": 8, "num_heads": 4},
    decoder="invpt",
    decoder_channels=24,
    decoder_options={"invpt": {"mixing_channels": 8}},
)
DEAD = r"scale_embed\.2\.|redu_chan\.0\.|invpt_stages\.0\..*fuse_attn|norm_mt\."

NAMES = (
    (r"multi_task_decoder\.", ""),
    (r"preliminary_decoder\.(\w+)\.(\d)\.conv", r"branches.\1.preliminary.\2.0"),
    (r"preliminary_decoder\.(\w+)\.(\d)\.bn1", r"branches.\1.preliminary.\2.1"),
    (r"intermediate_head\.(\w+)", r"branches.\1.preliminary_predictor"),
    (r"invpt\.mix_proj\.(\w+)\.0", r"branches.\1.mix"),
    (r"scale_embed\.0", "skips.1"),
    (r"scale_embed\.1", "skips.0"),
    (r"invpt\.invpt_stages\.1\.patch_embed\.(\d)\.proj", r"branches.@\1.up_embeds.0"),
    (r"invpt\.invpt_stages\.2\.patch_embed\.(\d)\.proj", r"branches.@\1.up_embeds.1"),
    (r"(up_embeds\.\d)\.1\.", r"\1.0.0."),
    (r"(up_embeds\.\d)\.2\.", r"\1.0.1."),
    (r"(up_embeds\.\d)\.4\.", r"\1.1.0."),
    (r"(up_embeds\.\d)\.5\.", r"\1.1.1."),
    (r"invpt\.invpt_stages\.(\d)\.blocks\.0\.attn\.conv_proj_q\.(\d)\.conv", r"branches.@\2.queries.\1.conv"),
    (r"invpt\.invpt_stages\.(\d)\.blocks\.0\.attn\.conv_proj_q\.(\d)\.bn", r"branches.@\2.queries.\1.norm"),
    (r"invpt\.invpt_stages\.(\d)\.blocks\.0\.", r"stages.\1."),
    (r"attn\.proj_q", "attention.query"),
    (r"attn\.proj_k", "attention.key"),
    (r"attn\.proj_v", "attention.value"),
    (r"attn\.proj", "attention.project"),
    (r"attn\.fuse_attn", "attention.fuse"),
    (r"mlp\.fc1", "mlp.0"),
    (r"mlp\.fc2", "mlp.2"),
    (r"invpt\.redu_chan\.(\d)\.(\d)", r"branches.@\2.reductions.\1"),
    (r"invpt\.mt_proj\.(\w+)\.0", r"branches.\1.conv"),
    (r"invpt\.mt_proj\.(\w+)\.1", r"branches.\1.norm"),
    (r"heads\.(\w+)\.linear_pred", r"branches.\1.predictor"),
    (r"@(\d)", lambda found: TASKS[int(found[1])]),
)
"""Names of the original, and ours; tasks by number get their names last."""


def read(name):
    file = numpy.load(FOLDER / name)
    return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture(scope="module")
def reference():
    return read("invpt_decoder.npz")


def our_name(name):
    for pattern, ours in NAMES:
        name = re.sub(pattern, ours, name)
    return name


@pytest.fixture(scope="module")
def weights(reference):
    """Weights of the original under our names; the joint norms are cut up by task."""
    found = {}
    for key, value in reference.items():
        name = key.removeprefix("weights/")
        if name == key or re.search(DEAD, name):
            continue
        if match := re.fullmatch(r".*norm_mts\.(\d)\.(weight|bias)", name):
            for task, part in zip(TASKS, value.chunk(len(TASKS)), strict=True):
                found[f"branches.{task}.joint_norms.{match[1]}.{match[2]}"] = part
        else:
            found[our_name(name)] = value
    return found


@pytest.fixture
def decoder(weights):
    def build(case, mode, dtype=torch.float64):
        kind, options = find_decoder(CONFIG)
        info = build_info(SIZES[case])
        context = DecoderContext(SPECS, info, 4, CONFIG.decoder_channels, SIZES[case], {}, seed=0)
        module = kind.build(context, options).to(dtype)
        unknown = module.load_state_dict(weights, strict=False)
        assert not unknown.unexpected_keys
        assert all(key.endswith("num_batches_tracked") for key in unknown.missing_keys)
        return module.train(mode == "train")

    return build


def build_info(image_size):
    from dtme_search.models import describe_backbone

    return describe_backbone(CONFIG, image_size)


def levels_of(reference, case, dtype=torch.float64):
    height, width = (side // 16 for side in SIZES[case])
    levels = []
    for number in range(1, 5):
        tokens = reference[f"{case}/level{number}"].to(dtype)
        maps = tokens.transpose(1, 2).unflatten(-1, (height, width))[None]
        levels.append(Level((TASKS,), maps.clone().requires_grad_()))
    return levels


def scalar_of(predictions, reference, case, task):
    final, (preliminary,) = predictions.outputs[task], predictions.auxiliary[task]
    probes = [reference[f"{case}/probe_{name}/{task}"].to(final.dtype) for name in ("final", "prelim")]
    return (final * probes[0]).sum() + (resize(preliminary, SIZES[case]) * probes[1]).sum()


def assert_close(found, expected, relative=1e-6):
    expected = expected.to(found.dtype)
    torch.testing.assert_close(found, expected, rtol=relative, atol=relative * expected.abs().max().item())


@CASES
def test_outputs_gradients_and_statistics_in_float64(decoder, reference, case, mode):
    module = decoder(case, mode)
    lowres = {}
    for task in TASKS:
        module.branches[task].predictor.register_forward_hook(
            lambda _, __, output, task=task: lowres.__setitem__(task, output)
        )
    levels = levels_of(reference, case)
    predictions = module(levels, TASKS)
    for task in TASKS:
        assert_close(lowres[task], reference[f"{case}/{mode}/final_lowres/{task}"])
        assert_close(predictions.auxiliary[task][0], reference[f"{case}/{mode}/prelim_lowres/{task}"])
        if (key := f"{case}/{mode}/final_sample0/{task}") in reference:
            assert_close(predictions.outputs[task][:1], reference[key])
    total = torch.stack([scalar_of(predictions, reference, case, task) for task in TASKS]).sum()
    assert_close(total[None], reference[f"{case}/{mode}/scalar"])
    total.backward()
    for number, level in enumerate(levels, start=1):
        expected = reference[f"{case}/{mode}/grad_level{number}"]
        if number == 3:
            assert level.maps.grad is None and not expected.any()
        else:
            assert_close(level.maps.grad[0].flatten(2).transpose(1, 2), expected)
    buffers = dict(module.named_buffers())
    prefix = f"{case}/{mode}/running_after/"
    after = {key.removeprefix(prefix): value for key, value in reference.items() if key.startswith(prefix)}
    assert bool(after) == (mode == "train")
    for name, value in after.items():
        assert_close(buffers[our_name(name)], value)


@CASES
def test_outputs_and_gradients_in_float32(decoder, reference, case, mode):
    module = decoder(case, mode, torch.float32)
    levels = levels_of(reference, case, torch.float32)
    predictions = module(levels, TASKS)
    for task in TASKS:
        if (key := f"{case}/{mode}/final_sample0/{task}") in reference:
            torch.testing.assert_close(predictions.outputs[task][:1], reference[key], rtol=0, atol=2e-5)
        torch.testing.assert_close(
            predictions.auxiliary[task][0],
            reference[f"{case}/{mode}/prelim_lowres/{task}"],
            rtol=0,
            atol=2e-5,
        )
    torch.stack([scalar_of(predictions, reference, case, task) for task in TASKS]).sum().backward()
    for number in (1, 2, 4):
        expected = reference[f"{case}/{mode}/grad_level{number}"]
        found = levels[number - 1].maps.grad[0].flatten(2).transpose(1, 2)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_every_value_in_between(decoder, reference):
    module = decoder("a", "eval")
    seen = {}

    def keep(name):
        return lambda _, inputs, output: seen.__setitem__(name, (inputs, output))

    for index, stage in enumerate(module.stages):
        stage.register_forward_hook(keep(f"stage{index}"))
    for task, branch in module.branches.items():
        for part in ("preliminary", "mix", "conv", "norm"):
            getattr(branch, part).register_forward_hook(keep(f"{part}/{task}"))
        for index, reduction in enumerate(branch.reductions):
            reduction.register_forward_hook(keep(f"normed{index}/{task}"))
    for index, skip in enumerate(module.skips):
        skip.register_forward_hook(keep(f"skip{2 - index}"))
    module(levels_of(reference, "a"), TASKS)

    def expect(found, name):
        assert_close(found[:1], reference[f"a/eval/inner_sample0/{name}"])

    for name in ("skip1", "skip2"):
        expect(seen[name][1], name)
    for task in TASKS:
        expect(seen[f"preliminary/{task}"][1], f"prelim_feature/{task}")
        expect(seen[f"mix/{task}"][1], f"mixed/{task}")
        expect(seen[f"conv/{task}"][0][0], f"aggregated/{task}")
        expect(seen[f"norm/{task}"][1].relu(), f"final_feature/{task}")
    for index in range(3):
        inputs, (tokens, scores) = seen[f"stage{index}"]
        expect(inputs[0], f"stage{index}_input")
        expect(scores.flatten(2, 4), f"stage{index}_score")
        expect(tokens, f"stage{index}_output")
        normed = torch.cat([seen[f"normed{index}/{task}"][0][0] for task in TASKS], dim=1)
        expect(normed.flatten(2).transpose(1, 2), f"stage{index}_normed")


@pytest.fixture
def whole(weights):
    """The whole model in float64: backbone and decoder with the weights of the original."""
    model = build_model(CONFIG, SPECS, SIZES["a"], seed=0).double()
    of_backbone = {
        key.removeprefix("weights/"): value
        for key, value in read("vit_levels.npz").items()
        if key.startswith("weights/")
    }
    model.backbone.vit.load_state_dict(of_backbone)
    model.decoders.load_state_dict(weights, strict=False)
    return model


def test_levels_of_the_backbone(whole):
    vit = read("vit_levels.npz")
    seen = []
    handle = whole.decoders.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0]))
    whole.eval()(vit["image"].double())
    handle.remove()
    for number, level in enumerate(seen, start=1):
        assert_close(level.maps[0].flatten(2).transpose(1, 2), vit[f"level{number}"])


@pytest.fixture(params=["eval", "train"])
def of_tasks(request, whole, reference):
    """Mode, and a function from images to the task scalars and the layer inputs."""
    whole.train(request.param == "train")

    def forward(images):
        predictions, layer_inputs = whole.forward_with_layer_inputs(images)
        return {task: scalar_of(predictions, reference, "a", task) for task in TASKS}, layer_inputs

    return request.param, forward


def test_gradients_of_each_task_at_every_block(of_tasks):
    mode, forward = of_tasks
    expected = read("invpt_block_grads.npz")
    scalars, layer_inputs = forward(read("vit_levels.npz")["image"].double())
    for task, scalar in scalars.items():
        assert_close(scalar.detach()[None], expected[f"{mode}/scalar/{task}"])
        found = torch.stack(torch.autograd.grad(scalar, layer_inputs, retain_graph=True))
        assert_close(found, expected[f"{mode}/grad_block_input_task/{task}"])


def test_conflicts_are_those_of_the_gradients_of_the_original(of_tasks):
    """By hand: eigenvectors of the tokens, gradients of the file, signs of the dot products."""
    mode, forward = of_tasks
    images = read("vit_levels.npz")["image"].double()
    report = measure_conflicts(lambda: [images], forward, variance_ratio=100.0)
    _, layer_inputs = forward(images)
    file = read("invpt_block_grads.npz")
    gradients = [file[f"{mode}/grad_block_input_task/{task}"].double() for task in TASKS]
    for layer, tokens in enumerate(layer_inputs):
        flat = tokens.detach().flatten(0, 1).numpy()
        variances, vectors = numpy.linalg.eigh(flat.T @ flat)
        shares = variances[::-1].cumsum() / variances.sum()
        num_range = int(numpy.argmax(shares >= 100 / 101)) + 1
        vectors = torch.from_numpy(vectors[:, ::-1].copy())
        for basis, counts in (
            (vectors[:, :num_range], report.range_counts),
            (vectors[:, num_range:], report.null_counts),
        ):
            by_hand = [
                ((gradients[i][layer] @ basis) * (gradients[j][layer] @ basis)).sum(-1).le(0).sum(1)
                for i in range(4)
                for j in range(i + 1, 4)
            ]
            assert torch.equal(counts[:, layer], torch.stack(by_hand, dim=1))


def test_scores_are_scaled_by_the_full_width():
    """A single head would hide it: the original divides by the root of D, not of D / heads."""
    attention = CrossTaskAttention(8, 2, receives=False)
    for linear in (attention.query, attention.key):
        torch.nn.init.eye_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    maps = torch.ones(1, 1, 8, 2, 2)
    _, scores = attention(maps, [torch.nn.AvgPool2d(2)], None)
    torch.testing.assert_close(scores, torch.full_like(scores, 4 / 8**0.5))
