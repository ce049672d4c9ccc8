"""Combining tasks in real training steps: right gradients, whatever the plan; fading, resuming, sharing."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from runs import assert_same_run, trainer, with_
from tiny import TINY

from dtme_search.combine import METHODS
from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.models import build_model
from dtme_search.token_space import ExpansionPlan
from dtme_search.training import TrainingInterrupted
from dtme_search.training.combination import Combination, method_of
from dtme_search.training.forward import TaskLosses
from dtme_search.training.task_gradients import final_streams, task_gradients, trained_parameters

TASKS = ("semseg", "depth", "normals", "edge")
APART = tuple((task,) for task in TASKS)
PAIRS = (TASKS[:2], TASKS[2:])
PLANS = {
    "unexpanded": None,
    "apart-from-0": ExpansionPlan(TASKS, 3, {"modulate": {0: APART}, "expand": {0: APART}}),
    "apart-at-the-end": ExpansionPlan(TASKS, 3, {"modulate": {2: APART}, "expand": {2: APART}}),
    "pairs": ExpansionPlan(TASKS, 3, {"modulate": {0: PAIRS, 2: PAIRS}}),
    "one-of-four": ExpansionPlan(TASKS, 3, {"expand": {1: (("depth",),)}}, {"num_task_tokens": 2}),
    "one-after-the-other": ExpansionPlan(
        TASKS, 3, {"modulate": {0: (TASKS[:3],), 1: (("semseg",),)}, "expand": {2: PAIRS}}
    ),
}
GROWS = {
    "expansion__policy": "fixed",
    "expansion__start": 0.5,
    "expansion__plan": {"modulate": {1: [["depth"], ["semseg", "edge"]]}, "expand": {2: [["normals"]]}},
}
FAST, SLOW = ("famo", "gradnorm", "graddrop"), pytest.mark.slow
FADES = {"tasks__edge": {"role": "auxiliary"}}

KINDS = [kind for kind in METHODS if kind != "sum"]


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return with_(RunConfig.model_validate(TINY), train__num_steps=6)


@pytest.fixture(scope="module")
def data(config):
    return build_data(config.data, TASKS, DEVICE)


@pytest.fixture(scope="module")
def batch(data):
    return next(iter(data.train_batches(4, seed=1)))


def losses_of(config: RunConfig, data, plan: ExpansionPlan | None = None) -> TaskLosses:
    model = build_model(config.model, data.specs, data.image_size, seed=0).train()
    if plan is not None:
        model.grow(plan, token_std=0.5, seed=0)
    return TaskLosses(config.train, model, data)


def gradients_of(config, data, batch, kind, weights=None, plan=None, parts=1, evaluating=False, **options):
    """What a method leaves in ``.grad`` of a fresh model, by name."""
    combine = {"kind": kind, **options}
    config = with_(config, train__combine=combine)
    losses = losses_of(config, data, plan)
    losses.model.train(not evaluating)
    torch.manual_seed(3)
    combination = Combination(config, losses, method_of(config, DEVICE))
    found = combination.backward(0, batch, weights or dict.fromkeys(TASKS, 1.0), parts)
    gradients = {name: each.grad for name, each in losses.model.named_parameters() if each.grad is not None}
    return found, gradients


@pytest.mark.parametrize("levels", ["last", "concat4"])
@pytest.mark.parametrize("name", PLANS)
def test_stream_by_stream_equals_the_batched_gradients(config, data, batch, name, levels):
    """With stochastic depth, which all streams draw alike, and batch norm, which sees its batch once."""
    config = with_(config, model__drop_path=0.3, model__levels=levels)
    losses, again = (losses_of(config, data, PLANS[name]) for _ in range(2))
    torch.manual_seed(5)
    found = task_gradients(losses, batch, TASKS)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    batched = again(batch, TASKS)
    assert torch.rand(1) == drawn, "what comes next draws the same"
    parameters, shared = trained_parameters(again.model)
    rows = {
        task: torch.autograd.grad(batched[task], parameters, retain_graph=True, allow_unused=True)
        for task in TASKS
    }
    for task in TASKS:
        torch.testing.assert_close(found.losses[task], batched[task].detach())
        for one, other in zip(found.rows[task], rows[task], strict=True):
            zero = torch.zeros(())
            one, other = (zero if each is None else each for each in (one, other))
            size = max(float(other.abs().max()), 1e-3)
            assert float((one - other).abs().max()) <= 1e-6 * size + 1e-7
    flat = torch.stack(
        [torch.cat([each.flatten() for each in row[:shared]]) for row in rows.values()]
    ).double()
    torch.testing.assert_close(found.gram(), flat @ flat.T, rtol=1e-4, atol=1e-9)
    for one, other in zip(losses.model.buffers(), again.model.buffers(), strict=True):
        torch.testing.assert_close(one, other)
    assert sum(final_streams(losses.model, TASKS), ()) and len(final_streams(losses.model, TASKS)) >= 1


def test_plain_adding_is_what_it_always_was(config, data, batch):
    losses = losses_of(config, data)
    losses.backward(batch, {"semseg": 1.0, "depth": 0.5})
    _, found = gradients_of(config, data, batch, "sum", {"semseg": 1.0, "depth": 0.5})
    for name, each in losses.model.named_parameters():
        assert (each.grad is None) == (name not in found)
        assert each.grad is None or torch.equal(each.grad, found[name])


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_active_task_is_trained_plainly(config, data, batch, kind):
    _, plain = gradients_of(config, data, batch, "sum", {"depth": 0.5})
    _, found = gradients_of(config, data, batch, kind, {"depth": 0.5})
    assert plain.keys() == found.keys() and all(torch.equal(plain[name], found[name]) for name in plain)


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_trains_what_plain_adding_trains(config, data, batch, kind):
    plan = PLANS["one-after-the-other"]
    expected, plain = gradients_of(config, data, batch, "sum", plan=plan)
    losses, found = gradients_of(config, data, batch, kind, plan=plan)
    assert found.keys() == plain.keys()
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert list(losses) == list(expected)
    for task in TASKS:
        torch.testing.assert_close(losses[task], expected[task])
    backbone = [name for name in plain if name.startswith("backbone.")]
    if kind not in ("sum", "pcgrad", "imtl_l", "dwa", "gradnorm"):  # plain here: no conflicts, first step
        assert any(not torch.allclose(found[name], plain[name], rtol=1e-3) for name in backbone)


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_fades_fades_from_the_update(config, data, batch, kind):
    """Weights multiply afterwards: what is left at 1e-4 is the update without the task."""
    faint = {"semseg": 1.0, "depth": 1.0, "edge": 1e-6}
    _, found = gradients_of(config, data, batch, kind, faint)
    _, full = gradients_of(config, data, batch, kind, faint | {"edge": 1.0})
    of_edge = [name for name in found if ".edge." in name]
    assert of_edge
    for name in of_edge:
        assert found[name].norm() <= 1e-3 * full[name].norm() + 1e-12
    # The share of edge in the shared update is what its weight times 1e6 would add.
    shared = [name for name in found if name.startswith("backbone.")]
    _, fainter = gradients_of(config, data, batch, kind, faint | {"edge": 1e-9})
    change = torch.cat([(found[name] - fainter[name]).flatten() for name in shared]).norm()
    size = torch.cat([found[name].flatten() for name in shared]).norm()
    assert change <= 1e-3 * size


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_without_valid_pixels_is_left_out(config, data, batch, kind):
    """As if it were not there, on the shared parameters."""
    from dataclasses import replace

    blind = replace(batch, valid={**batch.valid, "edge": torch.zeros_like(batch.valid["edge"])})
    losses, found = gradients_of(config, data, blind, kind)
    assert losses["edge"] == 0
    _, without = gradients_of(config, data, batch, kind, dict.fromkeys(TASKS[:3], 1.0))
    assert all(gradient.isfinite().all() for gradient in found.values())
    if kind in ("rlw", "dwa", "gradnorm", "graddrop"):
        return  # their weights know of the task; its gradient is 0 all the same
    for name in without:
        if name.startswith("backbone."):
            torch.testing.assert_close(found[name], without[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_in_parts_is_combined_once(config, data, batch, kind):
    """In evaluation mode, where images do not meet in batch norm: rows are added up, then combined."""
    whole, in_parts = (
        gradients_of(config, data, batch, kind, parts=parts, evaluating=True) for parts in (1, 3)
    )
    for task in TASKS:
        torch.testing.assert_close(in_parts[0][task], whole[0][task])
    if kind == "graddrop":
        return  # a last bit decides which sign an entry keeps
    for name, gradient in whole[1].items():
        torch.testing.assert_close(in_parts[1][name], gradient, rtol=2e-3, atol=2e-5)


def stop_at(step: int):
    class Stop:
        trainer = None

        def __call__(self) -> bool:
            return self.trainer is not None and self.trainer.state.step >= step

    return Stop()


@pytest.mark.parametrize("kind", [kind if kind in FAST else pytest.param(kind, marks=SLOW) for kind in KINDS])
def test_a_stopped_run_goes_on_bit_for_bit(config, data, tmp_path, kind):
    """With stochastic depth, growth at step 3, a fading task, and windows of two steps that the stop cuts."""
    options = {"kind": kind, "window": 2} if kind == "dwa" else {"kind": kind}
    config = with_(
        config,
        **GROWS,
        **FADES,
        schedule={"kind": "switch", "switch_at": 0.9},
        model__drop_path=0.2,
        train__combine=options,
        train__num_evaluations=1,
    )
    straight = trainer(config, data)
    expected = straight.run()
    assert [step for step, _ in expected.cost.phases] == [0, 0, 3, 5]
    folder = tmp_path
    for step in (1, 4):
        stop = stop_at(step)
        run = trainer(config, data, folder, should_stop=stop)
        stop.trainer = run
        with pytest.raises(TrainingInterrupted):
            run.run()
    resumed = trainer(config, data, folder)
    result = resumed.run()
    assert_same_run(straight, expected, resumed, result)
    one, other = straight.state.to_saved()["combine"], resumed.state.to_saved()["combine"]
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_cost_of_a_run_is_that_of_its_method(config, data):
    """In plain steps of the unexpanded network; measuring it teaches the method nothing."""
    combine = with_(config, train__combine__kind="famo", train__num_steps=2, train__num_evaluations=1)
    run = trainer(combine, data)
    result = run.run()
    assert result.cost.phases[1][0] == 0 and result.step_cost_ratio > 1.1
    assert run.state.to_saved()["combine"]["adam_steps"].tolist() == [2.0] * 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pcgrad", "gradnorm"])
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_compiled_blocks_give_their_graph_to_several_passes(config, data, batch, kind):
    """With ahead-of-time autograd, which is what makes compiled graphs give their memory away."""
    from dtme_search.training.combination import graphs_survive

    plain = gradients_of(config, data, batch, kind)[1]
    compiled = with_(config, train__combine={"kind": kind}, train__compile=True)
    losses = losses_of(compiled, data)
    losses.model.compile_blocks(backend="aot_eager")
    with graphs_survive(compiled):
        combination = Combination(compiled, losses, method_of(compiled, DEVICE))
        combination.backward(0, batch, dict.fromkeys(TASKS, 1.0))
    for name, each in losses.model.named_parameters():
        if kind != "graddrop":
            torch.testing.assert_close(each.grad, plain.get(name), rtol=1e-3, atol=1e-5)
