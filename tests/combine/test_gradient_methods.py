"""One suite over all methods that combine gradients, certificates of optimality, and cases worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dtme_search.combine import METHODS, LossWeighting, Merged, Setting, Weighted, build_method
from dtme_search.config import CombineConfig
from dtme_search.config.combine import KINDS, OPTIONS
from dtme_search.testing import check_combine

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def method(kind: str, num_tasks: int = 3, **options: object):
    config = CombineConfig.model_validate({"kind": kind, **options})
    return build_method(Setting(config, num_tasks, 4, CPU, generator))


ON_GRAM = [kind for kind in KINDS if isinstance(method(kind), Weighted)]
ON_GRADIENTS = [kind for kind in KINDS if isinstance(method(kind), Weighted | Merged)]
ORDERED = {"pcgrad"}
"""Draws the order of the tasks, so it is the same only in the mean."""


def weights(kind: str, rows: torch.Tensor, seed: int = 0, **options: object) -> torch.Tensor:
    rows = rows.double()
    return method(kind, len(rows), **options).weights(rows @ rows.T, generator(seed))


def update(kind: str, rows: torch.Tensor, seed: int = 0, **options: object) -> torch.Tensor:
    """The update of one flat parameter."""
    rows = rows.double()
    found = method(kind, len(rows), **options)
    if isinstance(found, Merged):
        return found.merge(rows, generator(seed))
    return found.weights(rows @ rows.T, generator(seed)) @ rows


def gradients(num_tasks: int, seed: int, spread: float = 1.0, width: int = 8) -> torch.Tensor:
    """Random gradients whose norms lie up to ``spread`` times apart."""
    rows = torch.randn(num_tasks, width, generator=generator(seed), dtype=torch.float64)
    return rows * torch.logspace(0, math.log10(spread), num_tasks, dtype=torch.float64)[:, None]


def test_every_kind_of_the_config_is_a_method_and_reads_fields_that_exist():
    assert tuple(METHODS) == KINDS
    assert method("sum") is None
    fields = set(CombineConfig.model_fields) - {"kind", "options"}
    assert set().union(*OPTIONS.values()) == fields and set(OPTIONS) <= set(METHODS)
    assert all(isinstance(method(kind), LossWeighting | Weighted | Merged) for kind in set(METHODS) - {"sum"})


@pytest.mark.parametrize("kind", sorted(set(METHODS) - {"sum"}))
def test_it_keeps_the_rules_that_authors_of_methods_are_told(kind):
    check_combine(METHODS[kind], CombineConfig(kind=kind), name=kind)


# What K equal gradients g give, as a multiple of g; None: a length of its own.
EQUAL = dict.fromkeys(ON_GRADIENTS, 3.0) | {"cagrad": 3.0 * 1.4, "nash_mtl": None}


@pytest.mark.parametrize("kind", ON_GRADIENTS)
def test_equal_gradients_keep_their_direction(kind):
    gradient = gradients(1, 0)[0]
    found = update(kind, gradient.expand(3, -1))
    factor = EQUAL[kind] or 1.0 / float(gradient.norm())
    torch.testing.assert_close(found, factor * gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ON_GRADIENTS)
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_tasks_does_not_matter(kind, seed):
    rows = gradients(4, seed, spread=10.0)
    if kind in ORDERED:
        rows = rows.abs()  # nothing to project: the order has no say
    order = [2, 0, 3, 1]
    torch.testing.assert_close(update(kind, rows[order]), update(kind, rows), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ON_GRADIENTS)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_all_losses_scales_the_update(kind, scale):
    rows = gradients(4, 1, spread=30.0)
    factor = 1.0 if kind == "nash_mtl" else scale
    torch.testing.assert_close(update(kind, scale * rows), factor * update(kind, rows), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["imtl_g", "nash_mtl"])
def test_these_do_not_see_the_scale_of_one_loss(kind):
    rows = gradients(3, 2)
    scaled = rows * torch.tensor([1.0, 50.0, 1.0])[:, None]
    first, second = update(kind, rows), update(kind, scaled)
    assert torch.cosine_similarity(first, second, 0) == pytest.approx(1.0, abs=1e-9)


def test_upgrad_is_linear_in_the_scale_of_one_loss():
    rows = gradients(3, 3)
    of_each = [
        update("upgrad", rows * torch.tensor(scales)[:, None])
        for scales in ([1.0, 1.0, 1.0], [2.0, 1.0, 1.0], [3.0, 1.0, 1.0])
    ]
    torch.testing.assert_close(of_each[0] + of_each[2], 2 * of_each[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ON_GRADIENTS)
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_opposed_gradients_give_nothing_that_hurts_and_nothing_infinite(kind, factor):
    gradient = gradients(1, 4)[0]
    rows = torch.stack((gradient, -factor * gradient))
    found = update(kind, rows)
    assert found.isfinite().all()
    assert found.norm() <= 2.8 * gradient.norm()
    if factor == 1.0 and kind != "graddrop":  # which takes one side, entry by entry
        assert found.norm() <= 1e-6 * gradient.norm()


@pytest.mark.parametrize("kind", ["mgda", "upgrad"])
@pytest.mark.parametrize("seed", range(5))
def test_no_task_loses(kind, seed):
    rows = gradients(5, seed, spread=10.0)
    assert (rows @ update(kind, rows) >= -1e-8).all()


@pytest.mark.parametrize("spread", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("num_tasks", [2, 3, 5, 8])
def test_mgda_is_the_shortest_vector(num_tasks, spread):
    rows = gradients(num_tasks, num_tasks, spread)
    gram = rows @ rows.T
    shares = weights("mgda", rows) / num_tasks
    assert shares.sum() == pytest.approx(1.0) and (shares >= 0).all()
    length = shares @ gram @ shares
    assert (gram @ shares >= length * (1 - 1e-8) - 1e-12 * gram.max()).all()


@pytest.mark.parametrize("radius", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("spread", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("num_tasks", [2, 3, 5, 8])
def test_cagrad_closes_the_gap_between_primal_and_dual(num_tasks, spread, radius):
    rows = gradients(num_tasks, 10 + num_tasks, spread)
    found = update("cagrad", rows, radius=radius) / num_tasks
    mean = rows.mean(0)
    distance = radius * mean.norm()
    assert (found - mean).norm() == pytest.approx(float(distance), rel=1e-9, abs=1e-12)
    # The direction of the step is that of g_w, with w on the simplex.
    worst = (rows @ found).min()
    if radius:
        # No combination of the gradients promises less than the worst task gets.
        along = (found - mean) / distance
        shares = torch.linalg.lstsq(rows.T, along[:, None]).solution[:, 0]
        shares = shares / shares.sum()
        combined = shares @ rows
        dual = combined @ mean + distance * combined.norm()
        assert (shares >= -1e-6).all()
        assert dual == pytest.approx(float(worst), rel=1e-6, abs=1e-9 * float(rows.norm() ** 2))


@pytest.mark.parametrize("spread", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("num_tasks", [2, 3, 5, 11])
def test_nash_solves_its_equation(num_tasks, spread):
    rows = gradients(num_tasks, 20 + num_tasks, spread, width=16)
    factors = weights("nash_mtl", rows, max_norm=1e9)
    torch.testing.assert_close(
        (rows @ rows.T) @ factors * factors, torch.ones_like(factors), rtol=1e-6, atol=0
    )
    assert (factors @ rows).norm() == pytest.approx(math.sqrt(num_tasks), rel=1e-6)
    assert update("nash_mtl", rows).norm() == pytest.approx(1.0)


@pytest.mark.parametrize("num_tasks", [2, 3, 5])
def test_imtl_g_has_equal_projections(num_tasks):
    rows = gradients(num_tasks, 30, spread=20.0, width=32)
    found = update("imtl_g", rows)
    projections = rows @ found / rows.norm(dim=1)
    torch.testing.assert_close(projections, projections[:1].expand(num_tasks), rtol=1e-8, atol=0)
    assert weights("imtl_g", rows).sum() == pytest.approx(num_tasks)


@pytest.mark.parametrize("num_tasks", [2, 3, 5])
def test_aligned_gradients_are_orthogonal_and_as_long_as_the_smallest_singular_value(num_tasks):
    rows = gradients(num_tasks, 40, spread=20.0)
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    torch.testing.assert_close(update("aligned_mtl", rows), (values[-1] * left @ right).sum(0))


def test_worked_by_hand_two_tasks():
    rows = torch.tensor([[1.0, 0.0], [-1.0, 2.0]])  # inner products 1, -1, 5
    root = math.sqrt(5.0)
    expected = {
        "pcgrad": [2.0, 1.2],  # g_1 + g_2 / 5 and g_2 + g_1
        "upgrad": [2.0, 1.2],
        "mgda": [1.5, 0.5],  # shares 6/8 and 2/8
        "imtl_g": [2 * (5 + root) / (6 + 2 * root), 2 * (1 + root) / (6 + 2 * root)],
        "nash_mtl": [1 / math.sqrt(1 - 1 / root), 1 / math.sqrt(1 - 1 / root) / root],
    }
    for kind, factors in expected.items():
        options = {"max_norm": 10.0} if kind == "nash_mtl" else {}
        found = weights(kind, rows, **options)
        assert found.tolist() == pytest.approx(factors, rel=1e-8), kind


def test_worked_by_hand_three_tasks_at_right_angles():
    rows = torch.diag(torch.tensor([1.0, 2.0, 4.0]))
    inverse_squares = 3.0 / (1 + 1 / 4 + 1 / 16)
    inverses = 3.0 / (1 + 1 / 2 + 1 / 4)
    expected = {
        "pcgrad": [1.0, 1.0, 1.0],
        "upgrad": [1.0, 1.0, 1.0],
        "mgda": [inverse_squares, inverse_squares / 4, inverse_squares / 16],
        "imtl_g": [inverses, inverses / 2, inverses / 4],
        "aligned_mtl": [1.0, 0.5, 0.25],
        "nash_mtl": [1.0, 0.5, 0.25],
    }
    for kind, factors in expected.items():
        options = {"max_norm": 10.0} if kind == "nash_mtl" else {}
        assert weights(kind, rows, **options).tolist() == pytest.approx(factors, rel=1e-8), kind


def test_pcgrad_projects_in_the_order_of_its_draws():
    """Three gradients in a plane, 120 degrees apart: what is left depends on who comes first."""
    angles = torch.tensor([0.0, 2.0, 4.0]) * math.pi / 3
    rows = torch.stack((angles.cos(), angles.sin()), 1)
    found = {tuple(round(each, 4) for each in update("pcgrad", rows, seed).tolist()) for seed in range(40)}
    assert 1 < len(found) <= 8
    assert torch.equal(update("pcgrad", rows, 5), update("pcgrad", rows, 5))


def test_cagrad_worked_by_hand():
    """Opposed in one direction, (1, 1) and (-1, 1): the mean (0, 1) is best already, c makes it longer."""
    rows = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    assert update("cagrad", rows, radius=0.4).tolist() == pytest.approx([0.0, 2.8])


def test_graddrop_keeps_one_sign_with_the_odds_of_its_purity():
    rows = torch.tensor([[3.0], [-1.0]]).expand(2, 20_000)
    found = update("graddrop", rows)
    assert set(found.tolist()) == {3.0, -1.0}
    assert (found == 3.0).double().mean() == pytest.approx(0.75, abs=0.02)
    leaking = update("graddrop", rows, leak=0.25)
    assert set(leaking.tolist()) == {3.0 - 0.25, -1.0 + 0.75}


@pytest.mark.parametrize("kind", ON_GRAM)
def test_gradients_of_unlike_tasks_as_of_real_scenes(kind):
    """Norms 60 times apart, one pair nearly opposed, more tasks than dimensions."""
    rows = gradients(6, 50, spread=60.0, width=4)
    rows[5] = -0.99 * rows[4]
    assert weights(kind, rows).isfinite().all()


class TestAgainstTorchJD:
    """TorchJD's own results, where it is right: moderate norms, and its coarse solvers with room."""

    @pytest.fixture
    def theirs(self):
        return pytest.importorskip("torchjd.aggregation", reason="compares with torchjd (extra dev)")

    @pytest.mark.parametrize("seed", range(4))
    def test_methods_in_closed_form(self, theirs, seed):
        rows = gradients(4, 60 + seed, spread=3.0)
        gram = rows @ rows.T
        torch.testing.assert_close(weights("imtl_g", rows) / 4, theirs.IMTLGWeighting()(gram))
        torch.testing.assert_close(
            weights("aligned_mtl", rows), 4 * theirs.AlignedMTLWeighting()(gram), rtol=1e-6, atol=1e-9
        )
        torch.testing.assert_close(
            weights("mgda", rows) / 4,
            theirs.MGDAWeighting(epsilon=1e-8, max_iters=20_000)(gram),
            rtol=0.02,
            atol=0.02,
        )

    @pytest.mark.parametrize("seed", range(4))
    def test_pcgrad_of_two_tasks(self, theirs, seed):
        rows = gradients(2, 70 + seed)
        torch.testing.assert_close(weights("pcgrad", rows), theirs.PCGradWeighting()(rows @ rows.T))
