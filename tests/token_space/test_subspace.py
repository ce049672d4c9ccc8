"""Range and null space of token covariances."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dtme_search.token_space import CovarianceAccumulator, TokenSpace, split_token_space


def covariance_with(eigenvalues: list[float], seed: int = 0) -> Tensor:
    """A covariance with these eigenvalues and random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    random = torch.randn(size, size, generator=generator, dtype=torch.float64)
    vectors, _ = torch.linalg.qr(random)
    return vectors @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ vectors.T


def assert_orthonormal_and_complete(space: TokenSpace) -> None:
    basis = torch.cat([space.range_basis, space.null_basis], dim=1)
    identity = torch.eye(space.embed_dim, dtype=torch.float64)
    assert torch.allclose(basis.T @ basis, identity, rtol=0, atol=1e-10)
    assert torch.allclose(basis @ basis.T, identity, rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=60)
@given(
    eigenvalues=st.lists(
        st.one_of(st.just(0.0), st.floats(1e-3, 1e3, allow_nan=False)), min_size=1, max_size=7
    ),
    variance_ratio=st.sampled_from([0.3, 1.0, 10.0, 100.0, 1000.0]),
    scale=st.sampled_from([1e-10, 1.0, 1e5]),
    seed=st.integers(0, 50),
)
def test_split_takes_the_fewest_directions_that_hold_the_share(eigenvalues, variance_ratio, scale, seed):
    covariance = scale * covariance_with(eigenvalues, seed)
    space = split_token_space(covariance, variance_ratio)
    assert_orthonormal_and_complete(space)
    variances = torch.diagonal(space.range_basis.T @ covariance @ space.range_basis)
    total = scale * sum(eigenvalues)
    inside = variances.sum().item()
    slack = 1e-9 * total + 1e-300
    assert inside >= variance_ratio * (total - inside) - variance_ratio * slack
    if space.range_dim:
        fewer = inside - variances.min().item()
        assert fewer < variance_ratio * (total - fewer) + variance_ratio * slack
    assert space.range_dim <= sum(value > 0 for value in eigenvalues)


def test_hand_worked_split():
    # 9 / 3.1 is below 3, (9 + 3) / 0.1 is 120: one direction for ratio 2, two for 100, three for 121.
    covariance = covariance_with([9.0, 3.0, 0.1])
    assert [split_token_space(covariance, ratio).range_dim for ratio in (2.0, 3.0, 100.0, 121.0)] == [
        1,
        2,
        2,
        3,
    ]


def test_range_basis_holds_the_leading_directions():
    space = split_token_space(torch.diag(torch.tensor([0.1, 9.0, 3.0])), 2.0)
    assert space.range_basis.abs().flatten().tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [1, 3, 5])
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e5])
def test_rank_bounds_the_range_space_at_any_ratio(rank, scale, dtype):
    generator = torch.Generator().manual_seed(rank)
    tokens = torch.randn(200, rank, generator=generator) @ torch.randn(rank, 8, generator=generator)
    covariance = (scale * tokens.T.double() @ tokens.double() / 200).to(dtype)
    assert split_token_space(covariance, 1e15).range_dim <= rank


def test_full_rank_and_a_huge_ratio_leave_no_null_space():
    space = split_token_space(covariance_with([3.0, 2.0, 1.0]), 1e300)
    assert space.range_basis.shape == (3, 3)
    assert space.null_basis.shape == (3, 0)


def test_all_zero_tokens_have_no_range_space():
    space = split_token_space(torch.zeros(4, 4), 100.0)
    assert space.range_basis.shape == (4, 0)
    assert_orthonormal_and_complete(space)


def test_projections_add_up_to_the_vector():
    space = split_token_space(covariance_with([5.0, 4.0, 1e-3, 0.0]), 100.0)
    vector = torch.arange(4.0, dtype=torch.float64)
    parts = [basis @ (basis.T @ vector) for basis in (space.range_basis, space.null_basis)]
    assert torch.allclose(parts[0] + parts[1], vector)
    assert space.range_dim == 2


@pytest.mark.parametrize(
    ("covariance", "variance_ratio", "message"),
    [
        (torch.zeros(2, 3), 1.0, "square"),
        (torch.zeros(3), 1.0, "square"),
        (torch.eye(2), 0.0, "above 0"),
        (torch.eye(2), math.inf, "above 0"),
        (torch.full((2, 2), math.nan), 1.0, "finite"),
    ],
)
def test_wrong_arguments_are_named(covariance, variance_ratio, message):
    with pytest.raises(ValueError, match=message):
        split_token_space(covariance, variance_ratio)


def test_covariance_is_uncentered_and_independent_of_the_batches():
    tokens = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0)) + 3.0
    flat = tokens.reshape(-1, 4).double()
    for sizes in ([6], [1, 2, 3], [5, 1]):
        accumulator = CovarianceAccumulator()
        for part in tokens.split(sizes):
            accumulator.update(part)
        covariance = accumulator.covariance()
        assert covariance.dtype == torch.float64
        assert torch.allclose(covariance, flat.T @ flat / 30, rtol=1e-12)


def test_covariance_keeps_what_float32_sums_would_lose():
    accumulator = CovarianceAccumulator()
    accumulator.update(torch.full((1, 1), 4096.0))
    for _ in range(100):
        accumulator.update(torch.full((1, 1), 0.5))
    assert accumulator.covariance().item() == (4096.0**2 + 25.0) / 101


def test_covariance_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        CovarianceAccumulator().covariance()
