"""Bad input: one line that names place, rule, value and way out, exit code 2, nothing written."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from nyud_folder import truncate, write_nyud
from tiny import TINY, write_tiny_study

from dtme_search.search import optimize

SECRET = "hunter2-marker"
TRAIN = ("train", "run.yaml")
STUDY = ("optimize", "--study", "tiny.yaml")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a tiny study, a tiny config and a file that is neither."""
    write_tiny_study(tmp_path)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "a-file").write_text("text")
    return tmp_path


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def refused(run, place):
    """Run a command that must be refused with one line matching a pattern, and must write nothing."""

    def check(words, pattern):
        before = listing(place)
        ran = run(*words)
        assert ran.code == 2, ran
        assert ran.out == ""
        assert re.fullmatch(r"dtme-search: [^\n]+\n", ran.err), ran.err
        assert re.search(pattern, ran.err), ran.err
        assert SECRET not in ran.err
        assert listing(place) == before
        return ran.err

    return check


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (
            ("optimize", "--study", "nyud-smal"),
            r"named 'nyud-smal'\. Known, nearest first: nyud-small, .*demo",
        ),
        (("optimize", "--study", "none.yaml"), r"none\.yaml: no such file"),
        (("optimize", "--study", "run.yaml"), r"run\.yaml: .* is missing"),
        (("show", "--study", "dem"), r"no such database\. `dtme-search optimize` starts one"),
        (("train", "demmo"), r"No config is named 'demmo'\. Known, nearest first: demo, "),
        (("train", "a-file"), r"No config is named 'a-file'"),
        (("train", "tiny.yaml"), r"tiny\.yaml: is a study, not a config\. Use it with `optimize --study`"),
        (("data", "check", "nyu"), r"no data set is named 'nyu'\. Did you mean 'nyud'\?"),
        (("data", "check", "nyud"), r"data\.root must name the folder .* Give --data-root DIR"),
        (("data", "check", "nyud", "--data-root", "none"), r"none: the folder of data set nyud must exist"),
        (("evaluate", "none"), r"none: no such checkpoint\. `dtme-search train` writes one"),
        (("evaluate", "."), r"checkpoint\.pt: no such checkpoint"),
        (("evaluate", "a-file"), r"a-file: its config\.yaml must be beside it"),
        (("conflicts", "run.yaml", "--out", "a-file"), r"--out must be a folder, got the file a-file"),
        (
            ("export", "--study", "tiny", "--out", "x", "--best", "--trial", "1"),
            r"--best, --trial and --pareto cannot be combined",
        ),
    ],
)
def test_names_and_places(refused, words, pattern):
    refused(words, pattern)


@pytest.mark.parametrize("command", [TRAIN, STUDY, ("baseline", "--study", "tiny.yaml")])
@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ("train.num_stesp=5", r"'num_stesp' is unknown\. Did you mean 'num_steps'"),
        ("train.num_steps=many", r"train\.num_steps must be a whole number, got 'many'"),
        ("train.num_steps=0", r"train\.num_steps must be at least 1, got 0"),
        ("train.num_steps", r"--set must look like path=value, got 'train\.num_steps'"),
        ("data.image_size=[32, 44]", r"multiple of the patch size 8 .*, got \[32, 44\]\. .* \[32, 4[08]\]"),
        ("data.name=scene", r"no data set is named 'scene'\. Did you mean 'scenes'\?"),
        ("tasks={sal: {}}", r"data set 'scenes' has no such task\. Known: depth, edge, normals, room"),
        ("model.backbone=vit_tny_patch16_224", r"got 'vit_tny_patch16_224'\. Did you mean 'vit_tiny_patch16"),
        ("model.backbone=resnet18", r"must be a plain ViT .*, got 'resnet18'"),
        ("model.backbone_options.deph=3", r"no such option\. Did you mean 'depth'"),
        ("model.checkpoint=none.pt", r"model\.checkpoint: no such file: .*none\.pt"),
    ],
)
def test_configs(refused, command, change, pattern):
    refused((*command, "--set", change), pattern)


class RunsCode:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return open, ("code-was-run", "w")


@pytest.fixture
def weights(place):
    """Files that somebody may take for weights of the tiny backbone."""
    import torch

    from dtme_search.config import ModelConfig
    from dtme_search.models import build_model
    from dtme_search.tasks import depth

    options = {**TINY["model"]["backbone_options"], "embed_dim": 48}
    model = ModelConfig(backbone=TINY["model"]["backbone"], backbone_options=options)
    wide = build_model(model, {"depth": depth()}, (32, 48), seed=0)
    torch.save(wide.state_dict(), place / "wide.pt")
    (place / "tokenizer.json").write_text('{"version": "1.0", "model": {"vocab": {}}}')
    (place / "tokenizer.bin").write_text('{"version": "1.0", "model": {"vocab": {}}}')
    torch.save({"state_dict": RunsCode()}, place / "code.pt")


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("command", [TRAIN, STUDY])
@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("wide.pt", r"the weights do not fit the backbone: .*48"),
        ("tokenizer.json", r"model\.checkpoint must end in \.safetensors, .*tokenizer\.json"),
        ("tokenizer.bin", r"tokenizer\.bin cannot be read as weights .* safetensors file or a state dict"),
        ("code.pt", r"code\.pt cannot be read as weights .* without other objects"),
    ],
)
def test_weights(refused, command, file, pattern):
    refused((*command, "--set", f"model.checkpoint={file}"), pattern)


@pytest.mark.parametrize("command", [TRAIN, STUDY, ("baseline", "--study", "tiny.yaml")])
@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (("--device", "cuda:99"), r"--device must exist, got 'cuda:99'"),
        (("--device", "tpu"), r"--device must be cpu, cuda or cuda:N, got 'tpu'"),
        (("--set", "train.accumulate=3"), r"accumulate must divide batch_size \(4\), got 3"),
        (
            ("--device", "cpu", "--devices-per-trial", "2"),
            r"train\.accumulate must be a multiple of --devices-per-trial \(2\), got 1: .*accumulate=2",
        ),
        (
            ("--device", "cpu", "--devices-per-trial", "3"),
            r"train\.batch_size must be a multiple of --devices-per-trial \(3\), got 4",
        ),
    ],
)
def test_devices(refused, command, words, pattern):
    refused((*command, *words), pattern)


@pytest.mark.parametrize("command", [TRAIN, STUDY])
def test_more_devices_than_there_are(refused, monkeypatch, command):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    pattern = r"--devices-per-trial must be at most the number of (CUDA devices|GPUs to use), 2, got 3"
    refused((*command, "--devices-per-trial", "3"), pattern)


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (
            {"policy": "fixed", "plan": {"modulate": {9: [["semseg"]]}}},
            r"must name layers from 0 to 2, got 9",
        ),
        ({"policy": "per_layer", "layers": ["both"]}, r"one choice for each of the 3 layers, got 1"),
    ],
)
def test_a_plan_that_does_not_fit_is_found_before_the_training(refused, change, pattern):
    refused((*TRAIN, "--set", f"expansion={change}"), pattern)


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"trails": 3}, r"^dtme-search: tiny\.yaml: trails is unknown\. Did you mean 'trials'\?"),
        ({"trials": "many"}, r"tiny\.yaml: trials must be a whole number, got 'many'"),
        (
            {"search": {"train.lr": {"low": 1, "high": 0.1}}},
            r"search\.train\.lr\.low must be below high, got",
        ),
        (
            {"search": {"train.lrr": {"choices": [1]}}},
            r"search\.train\.lrr: 'lrr' is unknown\. Did you mean 'lr'",
        ),
        (
            {"search": {"expansion.start": {"low": 0.0, "high": 2.0}}},
            r"start\.high must be below 1 or auto, got 2\.0",
        ),
        (
            {"search": {"train.lr": {"choices": [0.1], "when": {"expansion.policy": "conflict"}}}},
            r"search\.train\.lr\.when must name other searched paths, got 'expansion\.policy'",
        ),
        ({"enqueue": ["papper"]}, r"enqueue must name points, got 'papper'\. Did you mean 'paper'\?"),
        ({"enqueue": [{"train.lr": 0.1}]}, r"enqueue: 'train\.lr' is not searched"),
        (
            {"search": {"expansion.layers.7": {"choices": ["none", "both"]}}},
            r"layer must be between 0 and 2, got 7",
        ),
        (
            {
                "objectives": {"delta_m_percent": "maximize", "step_cost_ratio": "minimize"},
                "pruner": {"name": "median"},
            },
            r"pruner\.name must be none or pareto with 2 objectives, got 'median'",
        ),
        ({"sampler": {"name": "gp"}}, r"must not be gp with conditional parameters"),
    ],
)
def test_studies(refused, place, fields, pattern):
    write_tiny_study(place, **fields)
    refused(STUDY, pattern)


@pytest.mark.parametrize(
    ("url", "pattern"),
    [
        (
            f"mysql://ann:{SECRET}@127.0.0.1:1/db",
            r"ann:\*\*\*@.*driver .* missing\. pip install 'dtme-search\[mysql\]'",
        ),
        (
            f"nosuch://ann:{SECRET}@127.0.0.1:1/db",
            r"nosuch://ann:\*\*\*@.* must begin with a kind of database",
        ),
        (f"ann:{SECRET}@host", r"must be a database URL"),
        ("sqlite://", r"must name a file, got a database in memory"),
        ("sqlite:///a-file", r"sqlite:///a-file: file is not a database"),
        ("sqlite:///a-file/study.db", r"a-file: must be a writable folder"),
    ],
)
@pytest.mark.parametrize("command", [TRAIN, STUDY, ("baseline", "--study", "tiny.yaml")])
def test_storage(refused, command, url, pattern):
    if url.startswith("mysql") and importlib.util.find_spec("pymysql"):
        pytest.skip("the driver is there")
    refused((*command, "--storage", url), pattern)


def test_an_unreachable_server_is_found_before_the_data_is_read(refused, monkeypatch):
    pytest.importorskip("psycopg")
    monkeypatch.setattr(
        "dtme_search.search.data_shelf.build_data", lambda *_, **__: pytest.fail("data were read")
    )
    url = f"postgresql://ann:{SECRET}@127.0.0.1:1/db"
    refused((*STUDY, "--storage", url), r"ann:\*\*\*@127\.0\.0\.1:1/db: .*refused")


def test_another_search_under_the_same_name_is_found_before_the_data_is_read(run, place, monkeypatch):
    optimize(write_tiny_study(place), timeout=0, device="cpu")
    write_tiny_study(place, limits={"param_overhead_percent": 1.0})
    monkeypatch.setattr(
        "dtme_search.search.data_shelf.build_data", lambda *_, **__: pytest.fail("data were read")
    )
    ran = run(*STUDY)
    assert ran.code == 2
    assert "study 'tiny' in sqlite:///" in ran.err
    assert "limits.param_overhead_percent was absent, is 1.0" in ran.err


class TestDataOnDisk:
    @pytest.fixture
    def nyud(self, place):
        return write_nyud(place / "nyud", size=(32, 48))

    @pytest.mark.parametrize("command", [TRAIN, STUDY])
    def test_a_folder_that_is_not_there(self, refused, command):
        words = (*command, "--set", "data.name=nyud")
        refused(words, r"data\.root must name the folder of data set 'nyud', got nothing")
        refused((*words, "--data-root", "none"), r"none: the folder of data set nyud must exist")

    def test_a_folder_that_is_half_there(self, refused, nyud):
        words = (*STUDY, "--set", "data.name=nyud", "--data-root", "nyud")
        (nyud / "images" / "0004.png").unlink()
        refused(words, r"images: 1 of 5 missing \(0004\)")
        shutil.rmtree(nyud / "depth")
        refused(words, r"nyud: data set nyud must have .*, got no depth")

    @pytest.mark.parametrize("command", [TRAIN, STUDY, ("baseline", "--study", "tiny.yaml")])
    @pytest.mark.parametrize("file", ["images/0004.png", "depth/0009.png"])
    def test_a_truncated_file_stops_all_before_it_starts(self, refused, nyud, command, file):
        truncate(nyud / file)
        words = (*command, "--set", "data.name=nyud", "--data-root", "nyud")
        refused(words, rf"nyud/{file}: the file cannot be read")

    def test_a_truncated_test_image_stops_a_final_training(self, refused, nyud):
        truncate(nyud / "images" / "0002.png")
        refused((*TRAIN, "--set", "data.name=nyud", "--data-root", "nyud"), r"nyud/images/0002\.png: ")

    def test_the_check_lists_every_broken_file(self, run, nyud):
        truncate(nyud / "images" / "0004.png")
        truncate(nyud / "edge" / "0002.png")
        (nyud / "normals" / "0009.png").unlink()
        ran = run("data", "check", "nyud", "--data-root", "nyud")
        assert ran.code == 2
        assert ran.err == "dtme-search: data set nyud: 3 files missing or broken; see the list above.\n"
        for line in (
            "train 0004: nyud/images/0004.png: ",
            "test 0002: nyud/edge/0002.png: ",
            "train 0009: nyud/",
        ):
            assert f"\n{line}" in ran.out

    @pytest.mark.parametrize("name", ["123", "a: b", "[x]", "null"])
    def test_any_folder_name_will_do(self, run, place, nyud, name):
        nyud.rename(place / name)
        ran = run("data", "check", "nyud", "--data-root", name)
        assert ran.code == 0, ran
        ran = run("conflicts", "run.yaml", "--set", "data.name=nyud", "--data-root", name)
        assert ran.code == 0, ran


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        ((*STUDY, "--device", "cuda:99"), r"--device must exist, got 'cuda:99'"),
        ((*TRAIN, "--device", "gpu"), r"--device must be cpu, cuda or cuda:N, got 'gpu'"),
        ((*TRAIN, "--device", "meta"), r"--device must be cpu, cuda or cuda:N, got 'meta'"),
        ((*STUDY, "--workdir", "a-file"), r"a-file: must be a writable folder"),
        ((*TRAIN, "--no-baselines", "--workdir", "a-file"), r"a-file"),
    ],
)
def test_machine(refused, words, pattern):
    refused(words, pattern)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("optimise",), "No such command 'optimise'"),
        (("optimize",), "Missing option '--study'"),
        (("optimize", "--stdy", "demo"), "No such option: --stdy"),
        ((*STUDY, "--trials", "0"), "Invalid value for '--trials'"),
        ((*STUDY, "--trials", "x"), "Invalid value for '--trials'"),
        ((*STUDY, "--timeout", "-1"), "Invalid value for '--timeout'"),
        (("show", "--study", "tiny", "--format", "xml"), "'xml' is not one of 'table', 'csv', 'json'"),
        (("evaluate", ".", "--split", "wrong"), "'wrong' is not one of 'test', 'holdout'"),
        (("schema", "trial"), "'trial' is not one of 'study', 'config'"),
        (("dashboard", "--study", "tiny", "--port", "99999"), "Invalid value for '--port'"),
        (("data", "check"), "Missing argument 'DATASET'"),
        (("data", "chek"), "No such command 'chek'"),
    ],
)
def test_usage_errors_say_one_thing(run, place, words, sentence):
    before = listing(place)
    ran = run(*words)
    assert (ran.code, ran.out) == (2, "")
    *usage, error = ran.err.strip().splitlines()
    assert error.startswith("Error: ")
    assert sentence in error
    assert usage[0].startswith("Usage: dtme-search")
    assert listing(place) == before


class TestExport:
    def test_of_a_study_without_trials(self, refused, place):
        empty = optimize(write_tiny_study(place), timeout=0, device="cpu")
        assert not empty.optuna.get_trials()
        for which in ((), ("--pareto",)):
            refused(
                ("export", "--study", "tiny", "--out", "best.yaml", *which),
                r"study tiny: no trial is finished\. Run: dtme-search optimize --study tiny\.yaml",
            )
        refused(("export", "--study", "tiny", "--out", "best.yaml", "--trial", "0"), r"study tiny: ")

    def test_of_what_is_not_there_not_complete_or_above_a_limit(self, refused, finished_study):
        words = (
            "export",
            "--study",
            "tiny",
            "--workdir",
            finished_study.workdir,
            "--out",
            "x.yaml",
            "--trial",
        )
        trials = finished_study.study.optuna.get_trials()
        failed = next(trial.number for trial in trials if trial.state.name == "FAIL")
        infeasible = next(
            run.trial for run in finished_study.study.records.runs("tiny") if run.feasible is False
        )
        refused((*words, "99"), rf"trial must be one of 0\.\.{len(trials) - 1}, got 99")
        refused((*words, failed), rf"trial {failed} must be complete, got failed")
        refused((*words, infeasible), rf"trial {infeasible} exceeds a limit .* --force")

    def test_over_a_folder(self, refused, finished_study, place):
        (place / "folder").mkdir()
        words = ("export", "--study", "tiny", "--workdir", finished_study.workdir, "--out")
        refused((*words, "folder"), r"folder: ")
        refused((*words, "a-file/x.yaml"), r"a-file")


def test_a_study_that_others_made_is_not_shown(run, place):
    import optuna

    url = f"sqlite:///{place / 'other.db'}"
    optuna.create_study(study_name="other", storage=url)
    ran = run("show", "--study", "other", "--storage", url)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.endswith("study 'other' was not made by dtme-search.\n")
    ran = run("show", "--study", "othr", "--storage", url)
    assert ran.err.endswith("no study is named 'othr'. Did you mean 'other'?\n")


def test_a_checkpoint_that_does_not_fit_its_config(run, place):
    assert run(*TRAIN, "--no-baselines").code == 0
    (folder,) = (place / "dtme-runs" / "train").glob("run-*")
    ran = run("evaluate", folder, "--set", "model.backbone_options.depth=2")
    assert ran.code == 2
    assert "does not fit the config beside it: " in ran.err
    assert "blocks" in ran.err
    (folder / "checkpoint.pt").write_bytes(b"text")
    ran = run("evaluate", folder)
    assert ran.code == 2
    assert re.fullmatch(r"dtme-search: \S+checkpoint\.pt: cannot be read as a checkpoint: [^\n]+\n", ran.err)


def test_a_mistake_of_ours_keeps_its_traceback(place):
    code = "from dtme_search.cli import main, searching; searching.SchemaOf = None; main()"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code, "schema"],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1].startswith("AttributeError")
