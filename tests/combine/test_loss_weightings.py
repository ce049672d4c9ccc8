"""One suite over all weightings of losses, and what is particular to each."""

from __future__ import annotations

import pytest
import torch

from dtme_search.combine import METHODS, LossWeighting, Seen, Setting, build_method
from dtme_search.config import CombineConfig

CPU = torch.device("cpu")


def method(kind: str, num_tasks: int = 3, **options: object) -> LossWeighting:
    config = CombineConfig.model_validate({"kind": kind, **options})

    def draw(step: int) -> torch.Generator:
        return torch.Generator().manual_seed(step)

    found = build_method(Setting(config, num_tasks, 2, CPU, draw))
    assert isinstance(found, LossWeighting)
    return found


KINDS = [
    kind
    for kind in METHODS
    if isinstance(
        build_method(
            Setting(CombineConfig.model_validate({"kind": kind}), 3, 2, CPU, lambda _: torch.Generator())
        ),
        LossWeighting,
    )
]


def seen(losses, step: int = 0, norms=None, after=None, active=None) -> Seen:
    losses = torch.tensor(losses)
    return Seen(
        step,
        torch.ones(len(losses), dtype=torch.bool) if active is None else torch.tensor(active),
        losses,
        torch.tensor(norms or [1.0] * len(losses)),
        losses * 0.9 if after is None else torch.tensor(after),
    )


def course(found: LossWeighting, steps: range, active=None, scale=(1.0, 1.0, 1.0)) -> list[list[float]]:
    """Weights over a run whose losses fall, each in its own way."""
    history = []
    for step in steps:
        losses = [scale[0] * 0.95**step, scale[1] * (2.0 - 0.01 * step), scale[2] * (0.5 + 0.3 * (step % 3))]
        if active is not None:
            losses = [loss * on for loss, on in zip(losses, active, strict=True)]
        now = seen(losses, step, [0.5, 3.0, 1.0], [0.8 * losses[0], losses[1], 0.97 * losses[2]], active)
        history.append(found.weights(now).tolist())
        found.learn(now)
    return history


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_finite_and_never_negative(kind):
    history = torch.tensor(course(method(kind), range(200)))
    assert history.isfinite().all() and (history >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [1, 2, 3, 7])
def test_a_restored_weighting_goes_on_as_if_undisturbed(kind, stop, tmp_path):
    straight = course(method(kind), range(12))
    stopped = method(kind)
    assert course(stopped, range(stop)) == straight[:stop]
    torch.save(stopped.state(), tmp_path / "state.pt")
    resumed = method(kind)
    resumed.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert course(resumed, range(stop, 12)) == straight[stop:]


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_tasks_does_not_matter(kind):
    if kind == "rlw":
        pytest.skip("its weights are drawn")
    one, other = method(kind, 2), method(kind, 2)
    for step in range(6):
        now = seen([1.0, 0.3 + 0.1 * step], step, [2.0, 0.5], [0.9, 0.3 + 0.1 * step])
        swapped = seen([0.3 + 0.1 * step, 1.0], step, [0.5, 2.0], [0.3 + 0.1 * step, 0.9])
        assert one.weights(now).tolist() == pytest.approx(other.weights(swapped).flip(0).tolist(), rel=1e-5)
        one.learn(now)
        other.learn(swapped)


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_without_valid_pixels_neither_learns_nor_disturbs(kind):
    """Its loss is exactly 0 in the batch."""
    found = method(kind)
    course(found, range(5))
    before = {name: value.clone() for name, value in found.state().items()}
    now = seen([0.7, 0.0, 0.4], 5, [1.0, 0.0, 2.0], [0.6, 0.0, 0.4])
    assert found.weights(now).isfinite().all()
    found.learn(now)
    for name, value in found.state().items():
        assert value.isfinite().all()
        if name not in ("sums", "counts", "before", "last", "weights"):
            assert value[1] == before[name][1], name
    if kind == "dwa":  # the window of steps 4 and 5 ends here: its mean is that of step 4 alone
        assert found.state()["last"][1] == pytest.approx(2.0 - 0.04)


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_is_switched_off_keeps_what_was_learnt(kind):
    found = method(kind)
    course(found, range(4))
    before = {name: value.clone() for name, value in found.state().items()}
    history = torch.tensor(course(found, range(4, 8), active=[True, False, True]))
    assert history[:, [0, 2]].isfinite().all()
    for name in set(before) & {"logs", "logits", "first", "adam_first", "adam_steps"}:
        assert found.state()[name][1] == before[name][1]


@pytest.mark.parametrize("kind", ["dwa", "rlw", "famo", "gradnorm"])
def test_weights_have_a_mean_of_one_over_the_active_tasks(kind):
    """So that changing the method does not change the size of the update."""
    for active in (None, [True, False, True]):
        for row in course(method(kind), range(6), active=active):
            chosen = [each for each, on in zip(row, active or [True] * 3, strict=True) if on]
            assert sum(chosen) / len(chosen) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(("kind", "factor"), [("uncertainty", 0.5), ("imtl_l", 1.0)])
def test_learnt_weights_start_plain_and_end_at_the_inverse_loss(kind, factor):
    found = method(kind, lr=0.05)
    assert found.weights(seen([3.0, 3.0, 3.0])).tolist() == [factor] * 3
    for step in range(400):
        found.learn(seen([0.5, 1.0, 3.0], step))
    assert found.weights(seen([0.0] * 3)).tolist() == pytest.approx(
        [2 * factor, factor, factor / 3], rel=0.02
    )


def test_the_first_step_of_uncertainty_by_hand():
    """Adam's first step is the learning rate: up where the loss is below 1, down where it is above."""
    found = method("uncertainty", lr=0.1)
    found.learn(seen([0.5, 1.0, 2.0]))
    logs = found.weights(seen([0.0] * 3)).mul(2).log().tolist()
    assert logs == pytest.approx([0.1, 0.0, -0.1], abs=1e-6)


def test_optimal_uncertainty_is_the_inverse_loss():
    assert method("optimal_uncertainty").weights(seen([0.5, 2.0, 4.0])).tolist() == [2.0, 0.5, 0.25]


def test_dwa_by_hand():
    """Windows of one step: losses (2, 2, 1), then (1, 2, 1): ratios 1/2, 1, 1."""
    found = method("dwa", window=1, temperature=2.0)
    for step, losses in enumerate([[2.0, 2.0, 1.0], [1.0, 2.0, 1.0]]):
        assert found.weights(seen(losses, step)).tolist() == pytest.approx([1.0] * 3)
        found.learn(seen(losses, step))
    expected = 3 * torch.softmax(torch.tensor([0.25, 0.5, 0.5]), 0)
    assert found.weights(seen([1.0] * 3, 2)).tolist() == pytest.approx(expected.tolist())


def test_dwa_averages_over_the_steps_between_two_evaluations_by_default():
    found = method("dwa")  # two steps, as the setting says
    for step, loss in enumerate([4.0, 2.0, 1.0, 2.0]):
        found.learn(seen([loss, 1.0, 1.0], step))
    expected = 3 * torch.softmax(torch.tensor([1.5 / 3 / 2, 0.5, 0.5]), 0)
    assert found.weights(seen([1.0] * 3, 4)).tolist() == pytest.approx(expected.tolist())


def test_famo_by_hand():
    """Equal logits weigh by 1 / L; the task that improved more loses weight."""
    found = method("famo", num_tasks=2, lr=0.1, decay=0.0)
    now = seen([1.0, 4.0], after=[0.5, 4.0])
    assert found.weights(now).tolist() == pytest.approx([1.6, 0.4])
    found.learn(now)
    assert found.state()["logits"].tolist() == pytest.approx([-0.1, 0.1], abs=1e-5)
    equal = seen([1.0, 1.0])
    expected = 2 * torch.softmax(torch.tensor([-0.1, 0.1]), 0)
    assert found.weights(equal).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_gradnorm_by_hand():
    """Norms 1 and 3, equal rates: the target is 2 for both, so weights move by the learning rate."""
    found = method("gradnorm", num_tasks=2, lr=0.1)
    found.learn(seen([1.0, 5.0], norms=[1.0, 3.0]))
    assert found.weights(seen([1.0, 5.0])).tolist() == pytest.approx([1.1, 0.9])


def test_gradnorm_pushes_the_task_that_learns_slowly():
    """Equal norms; the loss of the second has halved, that of the first has stayed."""
    found = method("gradnorm", num_tasks=2, lr=0.1, alpha=1.5)
    found.learn(seen([1.0, 1.0]))
    found.learn(seen([1.0, 0.5], step=1))
    first, second = found.weights(seen([1.0, 0.5])).tolist()
    assert first > 1.0 > second


def test_random_weights_are_a_function_of_the_step():
    found = method("rlw")
    drawn = [found.weights(seen([1.0] * 3, step)).tolist() for step in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]
