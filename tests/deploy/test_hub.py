"""Folders for model hubs: read back with equal numbers, loaded by timm, refused where damaged, never code."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from commands import invoke
from own_folder import DESCRIPTION, write_own
from PIL import Image
from tiny import TINY, with_paths

from dtme_search.config import RunConfig, dump_yaml
from dtme_search.errors import ConfigError, TrainingError
from dtme_search.models import build_model
from dtme_search.search import train_final
from dtme_search.tasks import depth, edge, regression, save_specs, semseg
from dtme_search.token_space import ExpansionPlan
from dtme_search.training import config_beside, restore_model, save_checkpoint, specs_beside

SPECS = {spec.name: spec for spec in (semseg(tuple("abcdefghi")), depth(), edge())}
GROUPS = {
    "modulate": {1: (("depth",), ("edge",))},
    "expand": {2: (("depth",),)},
    "lora": {2: (("depth",), ("edge", "semseg"))},
}
PLAN = ExpansionPlan(tuple(SPECS), 3, GROUPS, {"lora_rank": 2, "lora_targets": "qkv+proj"})
GROWN = {"policy": "fixed", "plan": GROUPS, "lora_rank": 2, "lora_targets": "qkv+proj"}
CPU = torch.device("cpu")


def write_run(folder: Path, plan=PLAN, name: str = "checkpoint.pt", specs=SPECS, **changes) -> Path:
    """The folder of a run that nobody trained."""
    config = RunConfig.model_validate(with_paths(TINY, {"tasks": {task: {} for task in specs}, **changes}))
    bare = config.model.model_copy(update={"checkpoint": None})
    model = build_model(bare, specs, config.data.image_size, seed=1)
    if plan is not None:
        model.grow(plan, token_std=0.5, seed=1)
    with torch.no_grad():  # identity operations could be lost without a trace
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_yaml(config))
    save_specs(folder / "tasks.json", specs)
    written = {"plan": None if plan is None else plan.to_json(), "model": model.state_dict()}
    save_checkpoint(folder / name, "of nobody", written)
    return folder


def publish(run: Path, out: Path, *options: object) -> Path:
    done = invoke("deploy", run, "--to", "hub-folder", "--out", out, *options)
    assert done.exit_code == 0, done.exception
    return out


def header_of(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def restored(path: Path):
    return restore_model(path, config_beside(path), specs_beside(path), CPU).eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Folder of a run with baselines, grown in all ways."""
    tasks = {"semseg": {}, "depth": {}, "edge": {"role": "auxiliary"}}
    values = with_paths(TINY, {"expansion": GROWN, "train.num_steps": 2, "tasks": tasks})
    workdir = tmp_path_factory.mktemp("trained")
    return train_final(RunConfig.model_validate(values), "net", workdir=workdir, device="cpu").folder


@pytest.mark.slow
def test_a_trained_network_is_read_back_with_equal_numbers(trained, tmp_path, monkeypatch):
    out = publish(trained, tmp_path / "net", "--license", "mit")
    Image.new("RGB", (60, 40), (200, 30, 90)).save(out / "photo.jpg")
    monkeypatch.chdir(out)
    card = (out / "README.md").read_text()
    (commands,) = re.findall(r"```bash\n(.*?)```", card, re.DOTALL)
    for line in commands.splitlines():  # what the card says to type
        done = invoke(*shlex.split(line)[1:])
        assert done.exit_code == 0, f"{line}: {done.exception}"
    numbers = [json.loads(invoke("evaluate", place, "--format", "json").output) for place in (trained, ".")]
    assert numbers[0] == numbers[1] and numbers[0]["delta_m_percent"] is not None
    for place in (trained, out):
        assert invoke("predict", place, "photo.jpg", "--raw", "--out", f"of-{place.name}").exit_code == 0
    for file in Path(f"of-{trained.name}").iterdir():
        assert file.read_bytes() == (Path("of-net") / file.name).read_bytes()
    written = json.loads((trained / "metrics.json").read_text())
    assert f"delta_m {written['delta_m_percent']:+.2f} %" in card
    for words in (
        "| depth | rmse |",
        "edge auxiliary",
        "expand+lora",
        "seeds of the baselines",
        "## Licence\n\nmit",
    ):
        assert words in card
    header = header_of(out)
    assert (header["license"], header["library_name"], header["datasets"]) == (
        "mit",
        "dtme-search",
        ["scenes"],
    )
    measured = header["model-index"][0]["results"][0]["metrics"]
    assert measured[-1] == {
        "type": "delta_m_percent",
        "name": "delta_m in percent",
        "value": written["delta_m_percent"],
    }


@pytest.mark.parametrize("plan", [None, PLAN], ids=["unexpanded", "grown"])
def test_timm_loads_the_backbone(tmp_path, monkeypatch, plan):
    out = publish(write_run(tmp_path / "run", plan), tmp_path / "net")
    monkeypatch.chdir(out)
    card = (out / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    images = torch.randn(2, 3, 32, 48)
    model = restored(out / "model.safetensors")
    with torch.no_grad():
        features = names["backbone"].eval().forward_features(images)
        tokens = model.backbone.embed(images)
        for block in names["backbone"].blocks if plan is None else ():
            tokens = block(tokens)
    if plan is None:
        assert torch.allclose(features, model.backbone.norm(tokens), atol=1e-6)
        assert "the whole encoder" in card and "Nowhere" in card
    else:
        assert "before layer 1" in card
    vit = model.backbone.vit.state_dict()
    assert all(torch.equal(tensor, vit[name]) for name, tensor in names["backbone"].state_dict().items())
    assert set(names["backbone"].state_dict()) == set(vit)


def test_an_architecture_that_timm_does_not_know(tmp_path):
    run = write_run(tmp_path / "run", None, model__architecture="taskprompter", data__image_size=[32, 32])
    out = publish(run, tmp_path / "net")
    assert not (out / "backbone.safetensors").exists()
    assert "timm cannot load it alone" in (out / "README.md").read_text()
    assert invoke("deploy", out, "--to", "hub-folder", "--out", tmp_path / "again").exit_code == 0


def test_the_network_of_a_trial_has_not_seen_the_holdout(tmp_path):
    out = publish(write_run(tmp_path / "run", name="weights.pt"), tmp_path / "net")
    assert "without the hold-out" in (out / "README.md").read_text()
    assert "license" not in header_of(out) and "Say under which licence" in (out / "README.md").read_text()
    done = invoke("evaluate", out, "--split", "holdout")
    assert done.exit_code == 0 and "have seen the hold-out" not in done.output
    seen = publish(write_run(tmp_path / "other"), tmp_path / "seen")
    assert "have seen the hold-out" in invoke("evaluate", seen, "--split", "holdout").output


def test_ones_own_data_and_no_place_of_this_machine(tmp_path):
    write_own(tmp_path, 8, DESCRIPTION)
    folder = {"name": "folder", "root": str(tmp_path / "orchard"), "image_size": [32, 48]}
    folder["folder"] = {"description": str(tmp_path / "orchard.yaml")}
    specs = {"light": regression("light", 2)}
    weights = str(tmp_path / "vit.safetensors")
    run = write_run(tmp_path / "run", None, specs=specs, data=folder, model__checkpoint=weights)
    out = publish(run, tmp_path / "net")
    assert {path.name for path in out.iterdir()} >= {"data.yaml", "config.yaml", "model.safetensors"}
    for path in out.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    numbers = [
        json.loads(invoke("evaluate", place, "--data-root", tmp_path / "orchard", "--format", "json").output)
        for place in (run, out)
    ]
    assert numbers[0] == numbers[1]
    assert "datasets" not in header_of(out)


def test_what_is_refused(tmp_path):
    run = write_run(tmp_path / "run")
    somebody = tmp_path / "somebody"
    somebody.mkdir()
    (somebody / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    out = publish(run, tmp_path / "net")
    for words, message in (
        (("--to", "hub-folder", "--out", somebody), "holds files of somebody else"),
        (("--to", "hub-folder", "--out", somebody, "--force"), "holds files of somebody else"),
        (("--to", "hub-folder", "--out", tmp_path / "file"), "must be a folder"),
        (("--to", "hub-folder", "--out", out), "--force to replace it"),
        (("--to", "hub-folder", "--out", tmp_path / "new", "--raw"), "--raw is for files"),
        (("--out", tmp_path / "net.onnx", "--license", "mit"), "--license needs --to hub-folder"),
        (("--out", tmp_path / "new"), "needs --to hub-folder"),
    ):
        done = invoke("deploy", run, *words)
        assert isinstance(done.exception, ConfigError) and message in str(done.exception), words
    assert [path.name for path in somebody.iterdir()] == ["thesis.tex"]
    assert not (tmp_path / "new").exists()


def test_a_clone_is_filled_and_renewed_and_what_else_is_in_it_stays(tmp_path):
    clone = tmp_path / "clone"
    (clone / ".git").mkdir(parents=True)
    publish(write_run(tmp_path / "one", None), clone)
    (clone / "example.jpg").write_text("of the user")
    before = (clone / "model.safetensors").read_bytes()
    publish(write_run(tmp_path / "two"), clone, "--force")
    assert (clone / "model.safetensors").read_bytes() != before
    assert (clone / "example.jpg").exists() and (clone / ".git").is_dir()
    assert [path.name for path in clone.glob(".unproven*")] == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "the network is cut": ("model.safetensors", cut, "cannot be read as safetensors"),
    "the network is no safetensors": (
        "model.safetensors",
        lambda path: path.write_text("?"),
        "cannot be read",
    ),
    "the network is missing": ("model.safetensors", Path.unlink, "no such checkpoint"),
    "another model": (
        "model.safetensors",
        lambda path: path.write_bytes(path.with_name("backbone.safetensors").read_bytes()),
        "got another file",
    ),
    "no config": ("config.yaml", Path.unlink, "config.yaml must be beside it"),
    "a broken config": ("config.yaml", lambda path: path.write_text("model: ["), "not valid YAML"),
    "another config": (
        "config.yaml",
        lambda path: path.write_text(path.read_text().replace("depth: 3", "depth: 2")),
        "does not fit the config",
    ),
    "no tasks": ("tasks.json", Path.unlink, "tasks.json must be beside it"),
    "broken tasks": ("tasks.json", lambda path: path.write_text("[{]"), "must describe the tasks"),
    "other tasks": ("tasks.json", lambda path: path.write_text('[{"name": 3}]'), "must describe the tasks"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_line(tmp_path, damage):
    out = publish(write_run(tmp_path / "run"), tmp_path / "net")
    Image.new("RGB", (60, 40)).save(tmp_path / "photo.png")
    name, harm, words = DAMAGES[damage]
    harm(out / name)
    done = invoke("predict", out, tmp_path / "photo.png", "--out", tmp_path / "panels")
    assert isinstance(done.exception, (ConfigError, TrainingError)), done.exception
    assert words in str(done.exception) and "\n" not in str(done.exception)


def add_code(folder: Path, source: str = "") -> None:
    """Let the config of a folder name a file of parts beside it."""
    (folder / "parts.py").write_text(f"{source}\nPLUGINS = {{}}\n")
    file = folder / "config.yaml"
    text = re.sub(r"^plugins:.*$", "plugins: [parts.py]", file.read_text(), flags=re.MULTILINE)
    file.write_text(text)


def test_code_that_came_with_a_folder_is_not_run(tmp_path):
    out = publish(write_run(tmp_path / "run"), tmp_path / "net")
    trace = tmp_path / "trace"
    add_code(out, f"open({str(trace)!r}, 'w').close()")
    Image.new("RGB", (60, 40)).save(tmp_path / "photo.png")
    for words in (
        ("predict", out, tmp_path / "photo.png"),
        ("evaluate", out),
        ("deploy", out, "--out", "x.pt2"),
    ):
        done = invoke(*words)
        assert isinstance(done.exception, ConfigError) and "would run as code" in str(done.exception), words
    assert not trace.exists()


def test_a_run_with_parts_from_a_file_is_not_published(tmp_path):
    run = write_run(tmp_path / "run")
    add_code(run)
    done = invoke("deploy", run, "--to", "hub-folder", "--out", tmp_path / "net")
    assert isinstance(done.exception, ConfigError) and "must hold no code" in str(done.exception)
