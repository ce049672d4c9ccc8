"""Runs with compiled blocks: forward and backward, through growth and measurement, one after the other."""

from __future__ import annotations

import functools

import pytest
import torch
from device import DEVICE
from runs import trainer, with_

from dtme_search.data import build_data
from dtme_search.models import MultiTaskViT

# torch.compile looks at .grad of activations and silences the warning itself, unless warnings are errors.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)


@pytest.fixture
def compile_with(monkeypatch):
    """Sets the backend of every compiled model; inductor, the default, calls a C++ compiler."""
    whole = MultiTaskViT.compile_blocks

    def install(backend) -> None:
        torch.compiler.reset()
        monkeypatch.setattr(MultiTaskViT, "compile_blocks", functools.partialmethod(whole, backend))

    yield install
    torch.compiler.reset()


@pytest.fixture
def graphs(compile_with):
    """Blocks are traced and run as they are; one entry for each variant that was made."""
    made = []

    def backend(graph, _inputs):
        made.append(graph)
        return graph.forward

    compile_with(backend)
    return made


@pytest.fixture(scope="module")
def data():
    from tiny import TINY

    from dtme_search.config import RunConfig

    config = RunConfig.model_validate(TINY)
    return config, build_data(config.data, tuple(config.tasks), DEVICE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [{}, {"architecture": "taskprompter", "decoder_channels": 8, "drop_path": 0.2}]
)
def test_a_compiled_run_grows_by_conflicts_as_an_eager_one(data, compile_with, model):
    """With ``aot_eager``, which compiles the backward pass as inductor does: it refuses to be run twice."""
    config, held = data
    config = with_(
        config,
        expansion__policy="conflict",
        expansion__start=0.5,
        expansion__decoder_warmup_steps=1,
        train__num_steps=4,
        **{f"model__{name}": value for name, value in model.items()},
    )
    expected = trainer(config, held).run()
    compile_with("aot_eager")
    result = trainer(with_(config, train__compile=True), held).run()
    assert result.plan == expected.plan and not result.plan.is_empty
    assert result.report.range_counts.equal(expected.report.range_counts)
    assert result.report.null_counts.equal(expected.report.null_counts)
    assert result.metrics == pytest.approx(expected.metrics, rel=1e-3)


PLANS = [
    ["modulate", "none", "none"],
    ["none", "expand", "modulate"],
    ["both", "modulate", "expand"],
    ["expand", "both", "both"],
]


@pytest.mark.slow
def test_runs_of_many_plans_in_one_process_all_stay_compiled(data, graphs):
    """torch keeps eight variants of a function for a whole process and runs what comes then eagerly."""
    config, held = data
    seen = []
    for layers in PLANS:
        fields = {"expansion__policy": "per_layer", "expansion__layers": layers, "expansion__start": 0.5}
        run = with_(config, **fields, train__num_steps=3, train__batch_size=3, train__compile=True)
        trainer(run, held).run()
        seen.append(len(graphs))
    assert 0 < seen[0] <= seen[-1] < 8, seen


@pytest.mark.slow
def test_neither_ranks_nor_groups_need_variants_of_their_own(data, graphs):
    """Terms of LoRA come as tensors whose sizes are left open."""
    config, held = data
    seen = []
    for rank, layers, streams in (
        (2, ["lora", "expand", "lora"], None),
        (3, ["none", "lora", "modulate+lora"], None),
        (5, ["lora", "none", "both+lora"], None),
        (7, ["both+lora", "expand", "lora"], 2),
    ):
        run = with_(
            config,
            expansion__policy="per_layer",
            expansion__layers=layers,
            expansion__start=0.5,
            expansion__lora_rank=rank,
            expansion__max_streams=streams,
            train__num_steps=3,
            train__batch_size=3,
            train__compile=True,
        )
        trainer(run, held).run()
        seen.append(len(graphs))
    assert seen[0] > 0 and seen[-1] == seen[1] <= 8, seen
