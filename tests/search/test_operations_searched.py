"""Operations beside each other in one study: what a trial adds, what is the same work, what tables show."""

from __future__ import annotations

import pytest
from commands import invoke
from PIL import Image
from tiny import write_tiny_study

from dtme_search.config import RunConfig, load_run_config
from dtme_search.deploy import open_file
from dtme_search.errors import ConfigError
from dtme_search.models import describe_backbone
from dtme_search.operations import OPERATIONS
from dtme_search.reporting import export_trial, read_study_data, trials_table, write_report
from dtme_search.reporting.document import to_markdown
from dtme_search.reporting.figures.layers import draw_layers
from dtme_search.reporting.legend import front_legend
from dtme_search.reporting.sections import trial_note
from dtme_search.search import optimize, train_final
from dtme_search.search.storage.studies import stored_base_config
from dtme_search.search.study.preparation import space_of
from dtme_search.search.study.resolving import Resolver

RANK = "expansion.lora_rank"


def point(*layers: str, rank: int = 2) -> dict[str, object]:
    return {f"expansion.layers.{index}": choice for index, choice in enumerate(layers)} | {RANK: rank}


POINTS = [
    point("none", "none", "none"),
    point("lora", "none", "lora"),
    point("lora", "none", "lora", rank=6),
    point("none", "none", "none", rank=6),
    point("modulate", "both+lora", "modulate+lora"),
]
SEARCH = {
    "expansion.layers.*": {"choices": ["none", "modulate", "lora", "modulate+lora", "both+lora"]},
    RANK: {"low": 1, "high": 8, "log": True},
}
CHANGES = {
    "tasks": {"depth": {}, "edge": {}},
    "train.num_steps": 4,
    "expansion.policy": "per_layer",
    "expansion.layers": ["none"] * 3,
    "expansion.start": 0.5,
}
OF_RANK_1 = (24 + 72) + (24 + 24)
"""Parameters of a group in one layer: qkv and proj of width 24."""
ADDED = [0, 2 * 2 * 2 * OF_RANK_1, 2 * 2 * 6 * OF_RANK_1, 0, 2 * (2 * 2 * OF_RANK_1 + 3 * 2 * 24 + 24)]
"""Two tasks in groups of their own; the last has LoRA in two layers, modulation in three, a token in one."""


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("operations")
    file = write_tiny_study(folder, CHANGES, search=SEARCH, trials=len(POINTS), enqueue=POINTS)
    return optimize(file, workdir=folder / "runs", device="cpu")


def test_overheads_are_the_arithmetic_and_ranks_of_nothing_are_the_same_work(searched):
    runs = sorted(searched.records.runs("tiny"), key=lambda run: run.trial)
    assert [run.state for run in runs] == ["complete"] * 5
    backbone = describe_backbone(RunConfig.model_validate_json(runs[0].config).model, (32, 48)).num_parameters
    percents = [run.param_overhead_percent for run in runs]
    assert percents == pytest.approx([100 * added / backbone for added in ADDED])
    assert [run.origin_trial for run in runs] == [None, None, None, 0, None]
    assert [run.operations for run in runs[1::3]] == ["lora none lora", "modulate both+lora modulate+lora"]
    assert runs[2].step_flops_ratio > runs[1].step_flops_ratio > 1


def test_tables_notes_figures_and_report_say_it(searched, tmp_path):
    table, data = trials_table(searched), read_study_data(searched)
    assert list(table["layers"]) == ["...", "L.L", "L.L", "...", "Mbm"]
    legend = front_legend(table)
    assert "L LoRA" in legend and "m modulation + LoRA" in legend and "e expansion" not in legend
    note = to_markdown(trial_note(data, 4))
    assert "LoRA for" in note and "both+lora" in note and "each task" in note
    assert "LoRA for" not in to_markdown(trial_note(data, 0))
    rows = [row.operation for row in searched.records.plan("tiny", 4)]
    assert sorted(rows, key=list(OPERATIONS).index) == ["modulate"] * 6 + ["expand"] * 2 + ["lora"] * 4
    shown = draw_layers(data).data[0].y
    assert list(shown) == [
        *("none", "modulation", "expansion", "both"),
        *("LoRA", "modulation + LoRA", "both + LoRA"),
    ]
    page = write_report(searched, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "modulation + LoRA" in page


@pytest.mark.slow
def test_an_export_is_trained_evaluated_predicted_and_deployed(searched, tmp_path):
    def run(*words: object) -> str:
        done = invoke(*words)
        assert done.exit_code == 0, done.output
        return done.output

    file = export_trial(searched, 4, tmp_path / "best.yaml", force=True)
    text = file.read_text(encoding="utf-8")
    assert "Mbm" in text and "m modulation + LoRA" in text
    config = load_run_config(file)
    assert set(config.expansion.plan.lora) == {1, 2} and config.expansion.lora_rank == 2
    net = train_final(config, "net", workdir=tmp_path, device="cpu", with_baselines=False).folder
    run("evaluate", net, "--device", "cpu")
    Image.new("RGB", (90, 70), (200, 30, 90)).save(tmp_path / "photo.png")
    run("predict", net, tmp_path / "photo.png", "--out", tmp_path / "seen", "--device", "cpu")
    assert list((tmp_path / "seen").iterdir())
    parameters = {}
    for name in ("depth.onnx", "depth.pt2", "both.onnx"):
        run("deploy", net, "--out", tmp_path / name, *(["--tasks", "depth"] if "depth" in name else []))
        held = open_file(tmp_path / name).description
        assert held.layers == "modulate both+lora modulate+lora"
        parameters[name] = held.parameters
    # For one task the terms of LoRA are in the weights.
    assert parameters["both.onnx"] - parameters["depth.onnx"] == 2 * 2 * 2 * OF_RANK_1
    assert parameters["depth.pt2"] == parameters["depth.onnx"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"expansion.lora_rank": 25},
            "expansion.lora_rank must be at most 24, the width of qkv, got 25. Lower it.",
        ),
        ({RANK: {"low": 1, "high": 64}}, f"study tiny: search.{RANK}: 64: {RANK} must be at most 24"),
        ({RANK: {"choices": [2, 30]}}, f"study tiny: search.{RANK}: 30: {RANK} must be at most 24"),
    ],
)
def test_a_rank_above_the_width_is_refused_before_any_trial(tmp_path, changes, message):
    searched = {path: value for path, value in changes.items() if isinstance(value, dict)}
    fixed = {path: value for path, value in changes.items() if path not in searched}
    search = {"expansion.layers.*": SEARCH["expansion.layers.*"]} | searched
    file = write_tiny_study(tmp_path, CHANGES | fixed, search=search)
    with pytest.raises(ConfigError) as caught:
        optimize(file, workdir=tmp_path / "runs", device="cpu")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_gradient_similarity_is_a_choice_and_its_plan_is_known_from_sql(tmp_path):
    choices = ["conflict", "gradient_similarity"]
    changes = {"tasks": {"depth": {}, "edge": {}, "normals": {}}, "train.num_steps": 4}
    grows = {"expansion.policy": "conflict", "expansion.start": 0.5, "expansion.max_streams": 2}
    study = optimize(
        write_tiny_study(
            tmp_path,
            changes | grows | {"expansion.range_operation": "lora"},
            search={"expansion.selection": {"choices": choices}},
            trials=2,
            enqueue=[{"expansion.selection": choice} for choice in choices],
        ),
        workdir=tmp_path / "runs",
        device="cpu",
    )
    base = stored_base_config(study.optuna)
    space = space_of(study.config, base)
    backbone = describe_backbone(base.model, base.data.image_size)
    for number, trial in enumerate(study.optuna.trials):
        rows = study.records.conflicts("tiny", number)
        assert {row.cosine is None for row in rows} == {number == 0}
        resolver = Resolver(space, backbone)
        assert resolver.is_unknown(trial.params)
        resolver.learn(trial.params, rows)
        assert not resolver.is_unknown(trial.params)
        assert resolver.is_unknown({"expansion.selection": choices[1 - number]})
        shares = resolver(trial.params).shares
        for name in ("expand", "lora"):
            grown = [row.layer for row in study.records.plan("tiny", number) if row.operation == name]
            assert shares[name] == tuple(grown.count(layer) / 3 for layer in range(3))
        assert resolver(trial.params).overhead == pytest.approx(trial.values[1])
    tables = tmp_path.rglob("conflicts.txt")
    assert sorted("gradient cosine" in path.read_text(encoding="utf-8") for path in tables) == [False, True]


@pytest.mark.slow
def test_gain_is_a_choice_and_its_plan_is_known_from_sql(tmp_path):
    changes = {"tasks": {"depth": {}, "edge": {}, "normals": {}}, "train.num_steps": 4}
    grows = {"expansion.policy": "conflict", "expansion.start": 0.5, "expansion.range_layer_ratio": 0.3}
    search = {"expansion.selection": {"choices": ["conflict", "gain"]}}
    enqueue = [{"expansion.selection": "gain"}]
    file = write_tiny_study(tmp_path, changes | grows, search=search, trials=1, enqueue=enqueue)
    study = optimize(file, workdir=tmp_path / "runs", device="cpu")
    base = stored_base_config(study.optuna)
    resolver = Resolver(space_of(study.config, base), describe_backbone(base.model, base.data.image_size))
    gains, params = study.records.gains("tiny", 0), study.optuna.trials[0].params
    assert {(row.operation, row.layer) for row in gains} == {
        (operation, layer) for operation in ("modulate", "expand") for layer in range(3)
    }
    resolver.learn(params, study.records.conflicts("tiny", 0), gains)
    surest = max((row for row in gains if row.operation == "modulate"), key=lambda row: row.z)
    plan = study.records.plan("tiny", 0)
    assert {row.layer for row in plan if row.operation == "modulate"} == {surest.layer}
    assert resolver(params).shares["modulate"][surest.layer] == 1.0
    assert resolver(params).overhead == pytest.approx(study.optuna.trials[0].values[1])
