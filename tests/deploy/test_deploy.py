"""Networks as files: equal to PyTorch whatever plan, decoder and batch; refused where not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from commands import invoke
from PIL import Image
from tiny import TINY, with_paths

from dtme_search.config import RunConfig
from dtme_search.deploy import files, open_file
from dtme_search.deploy.comparison import compare
from dtme_search.deploy.program import Program
from dtme_search.errors import ConfigError, ExportError
from dtme_search.models import build_model
from dtme_search.search import train_final
from dtme_search.tasks import depth, edge, normals, semseg
from dtme_search.token_space import ExpansionPlan

SPECS = {spec.name: spec for spec in (semseg(("wall", "floor", "rest")), depth(), normals(), edge())}
TASKS = tuple(SPECS)
SIZE = (64, 64)
APART = (("semseg",), ("depth", "normals"))


def plan(modulate=None, expand=None, lora=None, **options) -> ExpansionPlan:
    groups = {"modulate": modulate or {}, "expand": expand or {}, "lora": lora or {}}
    return ExpansionPlan(TASKS, 4, groups, options)


PLANS = {
    "unexpanded": None,
    "modulated": plan({1: APART, 3: (("edge",),)}),
    "expanded": plan(expand={0: APART}),
    "mixed": plan({1: APART}, {1: (("edge",),), 2: APART}, num_task_tokens=2),
    "lora": plan(
        {3: APART}, {2: APART}, {1: APART, 2: (TASKS,)}, lora_targets="qkv+proj+fc1+fc2", lora_rank=2
    ),
}
DECODERS = (("simple", "vit"), ("dpt", "vit"), ("invpt", "vit"), ("simple", "taskprompter"))
NETWORKS = [
    *((*each, plan, ".onnx") for each in DECODERS for plan in PLANS),
    *((*DECODERS[0], plan, ".pt2") for plan in PLANS),
    *((*each, "mixed", ".pt2") for each in DECODERS[1:]),
]


def program(decoder: str, architecture: str, plan: str, form: str = "labels", tasks=TASKS) -> Program:
    changes = {
        "model.decoder": decoder,
        "model.architecture": architecture,
        "model.backbone_options.depth": 4,
    }
    config = RunConfig.model_validate(with_paths(TINY, changes))
    model = build_model(config.model, SPECS, SIZE, seed=0)
    if PLANS[plan] is not None:
        model.grow(PLANS[plan], token_std=0.5, seed=0)
    with torch.no_grad():  # identity operations could be lost without a trace
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return Program(model, SPECS, tasks, "imagenet", form)


def pictures(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (count, 3, *SIZE), generator=generator, dtype=torch.uint8)


def description(of: Program) -> files.Description:
    return files.Description(tuple(of.specs.values()), SIZE, "imagenet", of.form, "", 1)


@pytest.mark.slow
@pytest.mark.parametrize(("decoder", "architecture", "plan", "ending"), NETWORKS)
def test_a_file_equals_pytorch(tmp_path, decoder, architecture, plan, ending):
    made, path = program(decoder, architecture, plan, "raw"), tmp_path / f"net{ending}"
    files.write_file(made, description(made), {".onnx": "onnx", ".pt2": "torch"}[ending], path)
    opened = open_file(path)
    assert opened.description == description(made)
    assert compare(made, opened, pictures(5)).worst <= 1e-4  # a batch of 5 and one of 1


def test_labels_are_those_of_the_tasks(tmp_path):
    made, path = program("simple", "vit", "mixed", tasks=("semseg", "normals", "edge")), tmp_path / "net.pt2"
    files.write_file(made, description(made), "torch", path)
    found = open_file(path)(pictures(2))
    assert {task: tuple(output.shape) for task, output in found.items()} == {
        "semseg": (2, *SIZE),
        "normals": (2, 3, *SIZE),
        "edge": (2, *SIZE),
    }
    assert found["semseg"].dtype == torch.int32 and int(found["semseg"].max()) <= 2
    assert torch.allclose(found["normals"].norm(dim=1), torch.ones(2, *SIZE), atol=1e-4)
    assert float(found["edge"].min()) >= 0 and float(found["edge"].max()) <= 1


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Folder of a run of a grown network."""
    plan = {"modulate": {1: [["depth"], ["edge"]]}, "expand": {2: [["depth"]]}}
    expansion = {"policy": "fixed", "plan": plan}
    tasks = {"depth": {}, "edge": {}}
    values = with_paths(TINY, {"expansion": expansion, "tasks": tasks, "train.num_steps": 2})
    folder = tmp_path_factory.mktemp("run")
    result = train_final(
        RunConfig.model_validate(values), "net", workdir=folder, device="cpu", with_baselines=False
    )
    return result.folder


def test_the_command(run, tmp_path):
    Image.new("RGB", (90, 70), (200, 30, 90)).save(tmp_path / "photo.png")
    out = tmp_path / "net.onnx"
    done = invoke("deploy", run, "--out", out, "--images", tmp_path / "photo.png", "--tasks", "edge")
    assert done.exit_code == 0, done.output
    for words in ("edge, images of 32x48", "on your pictures", "this file", "not grown, in PyTorch"):
        assert words in done.output
    assert [path.name for path in tmp_path.iterdir() if "net" in path.name] == ["net.onnx"]
    again = invoke("deploy", run, "--out", out)
    assert isinstance(again.exception, ConfigError) and "--force" in str(again.exception)
    assert invoke("deploy", run, "--out", out, "--force").exit_code == 0
    held = open_file(out).description
    stored = onnx.load(str(out))
    assert (stored.ir_version, stored.opset_import[0].version) == (files.IR_VERSION, files.OPSET)
    assert f"opset {files.OPSET}, format {files.IR_VERSION}" in done.output
    assert [spec.name for spec in held.specs] == ["depth", "edge"] and held.layers == "none modulate expand"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "net.bin"], "--out must end in .onnx or .pt2, got net.bin."),
        (["--out", "net.onnx", "--to", "torch"], "--out must end in .pt2, got net.onnx."),
        (["--out", "net.onnx", "--tasks", "dept"], "got 'dept'. Did you mean 'depth'?"),
        (["--out", "net.onnx", "--images", "nothing.jpg"], "nothing.jpg"),
    ],
)
def test_what_is_refused(run, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    done = invoke("deploy", run, *options)
    assert done.exit_code != 0 and words in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_is_not_kept(run, tmp_path):
    done = invoke("deploy", run, "--out", tmp_path / "net.onnx", "--tolerance", "0")
    assert isinstance(done.exception, ExportError) and "Nothing was written" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["net.onnx", "net.pt2"])
def test_something_else_is_no_deployed_network(tmp_path, name):
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(ConfigError, match="must be a file that `dtme-search deploy` wrote"):
        open_file(tmp_path / name)


WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = sys.modules["dtme_search"] = None
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
held = json.loads(session.get_modelmeta().custom_metadata_map["dtme-search"])
height, width = held["image_size"]
image = np.full((1, 3, height, width), 99, np.uint8)
outputs = session.run(None, {session.get_inputs()[0].name: image})
print(json.dumps([[spec["name"], list(output.shape)] for spec, output in zip(held["specs"], outputs)]))
"""


def test_a_file_is_served_without_torch(run, tmp_path):
    assert invoke("deploy", run, "--out", tmp_path / "net.onnx").exit_code == 0
    served = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "net.onnx")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(served.stdout) == [["depth", [1, 32, 48]], ["edge", [1, 32, 48]]]
