"""What a conflict report derives from its counts."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import pytest
import scipy.stats
import torch
from torch import Tensor

from dtme_search.token_space import ConflictReport

TASKS = ("semseg", "depth", "edge")


def report_of(
    range_counts: Tensor, null_counts: Tensor | None = None, num_positions: int = 20
) -> ConflictReport:
    num_tasks = next(k for k in range(1, 20) if math.comb(k, 2) == range_counts.shape[2])
    return ConflictReport(
        tuple(f"task{index}" for index in range(num_tasks)) if num_tasks != 3 else TASKS,
        variance_ratio=100.0,
        embed_dim=8,
        num_positions=num_positions,
        range_dims=(2,) * range_counts.shape[1],
        range_counts=range_counts,
        null_counts=range_counts.flip(1) if null_counts is None else null_counts,
    )


def random_counts(num_images: int, num_layers: int, slope: float = 0.0, num_pairs: int = 3) -> Tensor:
    """Counts around 10 of 20, falling by ``slope`` per layer, shifted per image."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(num_images, num_layers, num_pairs, generator=generator)
    image = 3 * torch.randn(num_images, 1, 1, generator=generator)
    layers = slope * torch.arange(num_layers).reshape(1, -1, 1)
    return (10 + image - layers + noise).round().clamp(0, 20).long()


@pytest.fixture
def two_layers() -> ConflictReport:
    # Two images, two layers, three pairs, 10 tokens.
    range_counts = torch.tensor([[[1, 2, 3], [4, 5, 6]], [[3, 2, 7], [4, 5, 9]]])
    return report_of(range_counts, num_positions=10)


def test_rates_are_counts_over_positions_for_each_pair(two_layers):
    expected = {(0, 1): 4 / 20, (0, 2): 4 / 20, (1, 2): 10 / 20}
    for (first, second), rate in expected.items():
        assert two_layers.range_rates[0, first, second].item() == rate
        assert two_layers.range_rates[0, second, first].item() == rate
    assert two_layers.range_rates.diagonal(dim1=1, dim2=2).eq(0).all()
    assert two_layers.pairs == tuple(combinations(TASKS, 2))


def test_scores_are_means_over_pairs_in_float64(two_layers):
    assert two_layers.range_scores.tolist() == [18 / 60, 33 / 60]
    assert two_layers.null_scores.tolist() == [33 / 60, 18 / 60]


def test_standard_errors_by_hand(two_layers):
    # Image scores of layer 0: 6/30 and 12/30; sample deviation 0.2 / sqrt 2; error 0.1. Layer 1: 0.5, 0.6.
    assert torch.allclose(two_layers.score_errors("range"), torch.tensor([0.1, 0.05], dtype=torch.float64))
    # Pair (0, 1) in layer 0: 0.1 and 0.3 -> 0.1; pair (0, 2): 0.2 twice -> 0.
    errors = two_layers.pair_errors("range")[0]
    assert errors[0, 1].item() == pytest.approx(0.1)
    assert errors[0, 2].item() == 0.0
    assert torch.equal(errors, errors.T)


def test_ranking_puts_most_conflicts_first_and_equal_ones_by_index():
    counts = torch.tensor([3, 5, 3, 9, 5]).reshape(1, 5, 1)
    assert report_of(counts).ranking("range") == (3, 1, 4, 0, 2)
    assert report_of(counts).ranking("null") == (1, 0, 3, 2, 4)


def test_ties_pair_the_layers_by_image():
    # Layer 1 is one conflict below layer 0 in every image, whatever the image: no tie in spite of the spread.
    steady = torch.tensor([[10, 9], [2, 1], [19, 18], [6, 5]]).reshape(4, 2, 1)
    assert report_of(steady).ties("range") == (False,)
    # Differences +3, -1, +3, -1: mean 1, standard error 2 / sqrt 3 = 1.15.
    noisy = torch.tensor([[10, 7], [2, 3], [19, 16], [6, 7]]).reshape(4, 2, 1)
    assert report_of(noisy).ties("range") == (True,)
    equal = torch.tensor([[10, 10], [2, 2]]).reshape(2, 2, 1)
    assert report_of(equal).ties("range") == (True,)


def test_ties_follow_the_ranking_not_the_layers():
    counts = torch.tensor([[1, 15, 2], [1, 15, 1], [1, 15, 1]]).reshape(3, 3, 1)
    report = report_of(counts)
    assert report.ranking("range") == (1, 2, 0)
    assert report.ties("range") == (False, True)


@pytest.mark.parametrize(("num_images", "num_layers"), [(5, 3), (12, 4), (40, 12)])
@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_p_value_is_scipys(num_images, num_layers, slope):
    counts = random_counts(num_images, num_layers, slope)
    per_layer = counts.sum(2).numpy().T
    expected = scipy.stats.friedmanchisquare(*per_layer).pvalue
    assert report_of(counts).distinguishable("range") == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_summary_says_when_a_ranking_is_chance_and_when_not():
    clear = report_of(random_counts(60, 5, slope=1.0), null_counts=random_counts(60, 5))
    range_line, null_line = clear.summary().splitlines()
    assert clear.distinguishable("range") < 1e-6 < 0.05 < clear.distinguishable("null")
    assert "is distinguishable from chance" in range_line
    assert "is not distinguishable from chance" in null_line
    assert "(layer 0)" in range_line and "(layer 4)" in range_line


@pytest.mark.parametrize("shape", [(1, 4, 3), (6, 1, 3), (6, 4, 0), (1, 1, 0)])
def test_small_reports_answer_everything(shape):
    report = report_of(random_counts(shape[0], shape[1], num_pairs=shape[2]))
    for space in ("range", "null"):
        assert sorted(report.ranking(space)) == list(range(shape[1]))
        assert len(report.ties(space)) == shape[1] - 1
        assert 0.0 <= report.distinguishable(space) <= 1.0
        assert report.scores(space).isfinite().all()
        assert not report.score_errors(space).isnan().any()
    assert len(report.table().splitlines()) >= shape[1] + 4
    if shape[0] == 1:
        # One image says nothing about the spread.
        assert all(report.ties("range"))
        assert report.score_errors("range").isinf().all()
        assert report.distinguishable("range") > 0.05
    if shape[2] == 0:
        assert report.distinguishable("range") == 1.0
        assert "no conflicts" in report.summary()


def test_table_has_one_line_per_layer_and_marks_ties():
    counts = torch.tensor([[1, 15, 2], [1, 15, 1], [1, 15, 1]]).reshape(3, 3, 1)
    lines = report_of(counts).table().splitlines()
    layers = {line.split()[0]: line.split() for line in lines if line.lstrip()[:1].isdigit()}
    assert layers["1"][:6] == ["1", "2/8", "0.7500", "±", "0.0000", "1"]
    assert layers["2"][5] == "2~"
    assert layers["0"][5] == "3"
    assert max(map(len, lines)) < 100


def test_table_of_a_large_study_stays_narrow():
    lines = report_of(random_counts(20, 24, num_pairs=55)).table().splitlines()
    assert max(map(len, lines)) < 100


@pytest.mark.parametrize("shape", [(5, 4, 3), (2, 3, 0)])
def test_a_saved_report_is_loaded_equal(tmp_path, shape):
    report = report_of(random_counts(shape[0], shape[1], num_pairs=shape[2]))
    report.save(tmp_path / "conflicts.json")
    loaded = ConflictReport.load(tmp_path / "conflicts.json")
    assert loaded == report
    assert loaded.table() == report.table()
    assert loaded.range_counts.dtype == torch.int64


def test_reports_with_other_counts_differ(two_layers):
    other = report_of(two_layers.range_counts + 1, num_positions=10)
    assert two_layers != other


@pytest.mark.parametrize("name", ["range_counts", "null_counts"])
@pytest.mark.parametrize("shape", [(2, 2, 4), (2, 3, 3), (0, 2, 3), (3, 2, 3)])
def test_counts_that_do_not_fit_are_refused(name, shape):
    counts = {name: torch.zeros(2, 2, 3).long() for name in ("range_counts", "null_counts")}
    counts[name] = torch.zeros(shape).long()
    with pytest.raises(ValueError, match="counts must"):
        ConflictReport(TASKS, 100.0, 8, 20, (1, 1), **counts)


def test_pairs_count_on_images_that_have_both_labels():
    """Three images, two layers, ten tokens; tasks semseg and edge have labels together in the first only."""
    counts = torch.tensor([[[1, 2, 3], [4, 5, 6]], [[3, 0, 7], [4, 0, 9]], [[5, 0, 2], [1, 0, 0]]])
    both = torch.tensor([[True, True, True], [True, False, True], [True, False, True]])
    report = replace(report_of(counts, num_positions=10), both=both)
    rates = report.range_rates
    assert rates[0, 0, 1].item() == pytest.approx(9 / 30)
    assert rates[0, 0, 2].item() == pytest.approx(2 / 10)
    assert rates[1, 1, 2].item() == pytest.approx(15 / 30)
    assert report.range_scores.tolist() == pytest.approx(
        [(0.3 + 0.2 + 0.4) / 3, (0.3 + 0.5 + 0.5) / 3], rel=1e-12
    )
    assert report.ranking("range") == (1, 0)
    # Of 0.1, 0.3, 0.5: standard deviation 0.2.
    assert report.pair_errors("range")[0, 0, 1].item() == pytest.approx(0.2 / math.sqrt(3))
    assert report.pair_errors("range")[0, 0, 2].item() == math.inf
    assert ConflictReport.from_json(report.to_json()) == report


def test_a_pair_that_no_image_shows_is_no_part_of_the_score():
    counts = torch.tensor([[[4, 0, 0]], [[6, 0, 0]], [[8, 0, 0]]])
    both = torch.tensor([[True, False, False]] * 3)
    report = replace(report_of(counts, num_positions=10), both=both)
    alone = report_of(counts[:, :, :1], num_positions=10)
    assert report.range_scores.tolist() == pytest.approx(alone.range_scores.tolist())
    assert report.score_errors("range").tolist() == pytest.approx(alone.score_errors("range").tolist())


def test_labels_everywhere_change_nothing():
    whole = report_of(random_counts(12, 4, slope=0.2))
    same = replace(whole, both=torch.ones(12, 3, dtype=torch.bool))
    for space in ("range", "null"):
        assert torch.allclose(same.scores(space), whole.scores(space))
        assert torch.allclose(same.score_errors(space), whole.score_errors(space))
        assert torch.allclose(same.pair_errors(space), whole.pair_errors(space))
        assert same.ranking(space) == whole.ranking(space)
        assert same.ties(space) == whole.ties(space)
