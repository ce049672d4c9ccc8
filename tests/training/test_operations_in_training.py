"""Every operation of a layer in training: resumed bit for bit, written down, with every decoder."""

from __future__ import annotations

import pytest
from device import DEVICE
from runs import assert_same_run, trainer, with_
from tiny import TINY

from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.operations import OPERATIONS
from dtme_search.training import TrainingInterrupted
from dtme_search.training.growth import resolved_config

LINEARS = {"qkv": (24, 72), "proj": (24, 24)}
NETWORKS = {
    "simple": {},
    "dpt": {"decoder": "dpt", "decoder_channels": 8},
    "invpt": {"decoder": "invpt", "decoder_channels": 64},
    "taskprompter": {
        "architecture": "taskprompter",
        "architecture_options": {"taskprompter": {"branch_channels": 8, "channel_heads": 4}},
        "decoder_channels": 8,
    },
}


def config_of(operation: str, network: str = "simple", **fields) -> RunConfig:
    """Its layers by conflicts, tasks in groups, one task switched off behind the growth."""
    network_fields = {f"model__{name}": value for name, value in NETWORKS[network].items()}
    schedule = {"schedule": {"kind": "switch", "switch_at": 0.7}}
    return with_(
        RunConfig.model_validate(TINY),
        data__image_size=[32, 64],
        model__drop_path=0.2,
        expansion__policy="conflict",
        expansion__start=0.5,
        expansion__max_streams=2,
        expansion__range_operation=operation,
        expansion__null_operation=operation,
        tasks__edge={"role": "auxiliary", "weight": 0.5},
        **schedule | network_fields | fields,
    )


@pytest.fixture(scope="module")
def data():
    config = config_of("modulate")
    return build_data(config.data, tuple(config.tasks), DEVICE)


RUNS = [
    *((operation, "simple") for operation in OPERATIONS),
    *(pytest.param("lora", network, marks=pytest.mark.slow) for network in NETWORKS if network != "simple"),
]


@pytest.mark.parametrize(("operation", "network"), RUNS)
def test_a_stopped_run_goes_on_bit_for_bit(data, tmp_path, operation, network):
    """Stopped before the growth and behind it."""
    config = config_of(operation, network)
    straight = trainer(config, data)
    expected = straight.run()
    assert set(expected.plan.options) == set(OPERATIONS[operation].options)
    assert expected.plan.num_parameters(24, LINEARS) > 0
    assert expected.plan.operations().count("none") + expected.plan.operations().count(operation) == 3

    def stopped_at(step: int) -> None:
        run = trainer(config, data, tmp_path / "run", should_stop=lambda: run.state.step >= step)
        with pytest.raises(TrainingInterrupted, match=f"step {step} of 10"):
            run.run()

    stopped_at(3)
    stopped_at(8)
    resumed = trainer(config, data, tmp_path / "run")
    assert_same_run(straight, expected, resumed, resumed.run())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_written_plan_trains_to_the_same_model(data, operation):
    config = config_of(operation, expansion__lora_rank=3, expansion__num_task_tokens=2)
    searched = trainer(config, data)
    expected = searched.run()
    written = trainer(resolved_config(config, expected.plan), data)
    result = written.run()
    assert result.report is None
    assert_same_run(searched, expected, written, result)


def test_terms_of_lora_learn_and_change_what_is_predicted(data):
    config = config_of("lora", train__num_steps=12)
    run = trainer(config, data)
    run.run()
    terms = [term for lora in run.model.loras.values() for term in lora.terms.values()]
    assert terms and all(term.up.detach().abs().sum() > 0 for term in terms)
    added = run.state.optimizer.param_groups[-1]["params"]
    assert {id(parameter) for parameter in added} == {id(p) for p in run.model.loras.parameters()}


@pytest.mark.parametrize("combine", ["pcgrad", "cagrad"])
def test_gradients_task_by_task_leave_terms_to_their_groups(data, combine):
    """What is no part of the backbone is not shared: its gradient is that of its own tasks alone."""
    config = config_of("lora", train__combine__kind=combine, schedule={"kind": "constant"})
    run = trainer(config, data)
    result = run.run()
    assert result.metrics and not result.plan.is_empty
    for lora in run.model.loras.values():
        for term in lora.terms.values():
            assert term.up.grad is not None and all(group.any() for group in term.up.grad)
