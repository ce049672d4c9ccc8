"""``ConflictReport``: how often task gradients conflict, per layer and pair, and how sure that is.

Shapes: I images, D layers, K tasks; pairs are in the order of ``itertools.combinations(range(K), 2)``.
"""

from __future__ import annotations

import json
import math
import textwrap
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dtme_search.token_space.gain import gain_table
from dtme_search.token_space.text import format_table

Space = Literal["range", "null"]
"""Subspace in which conflicts are counted."""

SIGNIFICANCE = 0.05
"""A ranking with a larger p-value is called indistinguishable from chance (ours)."""


@dataclass(frozen=True, eq=False)
class ConflictReport:
    """Conflict counts of one model on one set of images; everything else follows from them.

    Only integers are stored, so that a report does not depend on how the images were batched. Standard errors
    are over images, because tokens of one image are not independent of each other (ours).

    Attributes:
        tasks: Names of the K tasks.
        variance_ratio: Ratio that split the token spaces.
        embed_dim: Dimension of a token.
        num_positions: Tokens per image, prefix tokens included.
        range_dims: Dimension of the range space of each layer.
        range_counts: Tokens at which the range projections of a pair conflict, int64, shape (I, D, pairs).
        null_counts: The same in the null space.
        both: Whether an image has the labels of both tasks of a pair, bool, shape (I, pairs); elsewhere the
            counts are 0. ``None`` if all images have all labels. Each pair is then a mean over its own
            images, a score is the mean over the pairs that have any, and its standard error that of a ratio,
            linearised (ours).
        cosines: Mean cosine of the gradients of a pair on the weights of each layer, float64, shape
            (D, pairs). ``None`` unless ``expansion.selection`` asks for it.
        gains: What splitting the tasks could gain, see :mod:`dtme_search.token_space.gain`: S, its error and
            z of each of ``GAINS`` by layer, float64, (3, 2, D). ``None`` if it was not measured.

    Raises:
        ValueError: If the shapes do not match, or there is no image.
    """

    tasks: tuple[str, ...]
    variance_ratio: float
    embed_dim: int
    num_positions: int
    range_dims: tuple[int, ...]
    range_counts: Tensor
    null_counts: Tensor
    both: Tensor | None = None
    cosines: Tensor | None = None
    gains: Tensor | None = None

    def __post_init__(self) -> None:
        expected = (len(self.range_dims), math.comb(len(self.tasks), 2))
        for name in ("range_counts", "null_counts"):
            shape = tuple(getattr(self, name).shape)
            if shape[1:] != expected or shape[0] < 1:
                raise ValueError(
                    f"{name} must have shape (images, {expected[0]}, {expected[1]}), got {shape}."
                )
        if len(self.range_counts) != len(self.null_counts):
            raise ValueError("range_counts and null_counts must be of the same images.")
        if self.both is not None and self.both.shape != (self.num_images, expected[1]):
            raise ValueError(f"both must have shape (images, pairs), got {tuple(self.both.shape)}.")
        if self.cosines is not None and self.cosines.shape != expected:
            raise ValueError(f"cosines must have shape {expected}, got {tuple(self.cosines.shape)}.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConflictReport) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    @property
    def num_images(self) -> int:
        """I."""
        return len(self.range_counts)

    @property
    def num_layers(self) -> int:
        """D."""
        return len(self.range_dims)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The unordered pairs of tasks."""
        return tuple(combinations(self.tasks, 2))

    @property
    def range_rates(self) -> Tensor:
        """Fraction of tokens whose range projections conflict: float64, (D, K, K), symmetric, diagonal 0."""
        return self.rates("range")

    @property
    def null_rates(self) -> Tensor:
        """The same in the null space."""
        return self.rates("null")

    @property
    def range_scores(self) -> Tensor:
        """Mean of the range rates over the unordered pairs: float64, (D,); 0 for a single task."""
        return self.scores("range")

    @property
    def null_scores(self) -> Tensor:
        """The same in the null space."""
        return self.scores("null")

    def rates(self, space: Space) -> Tensor:
        """Conflict rates of one subspace: float64, (D, K, K)."""
        counts_DX = self._counts(space).sum(0).to(torch.float64)
        positions = self._images_X.clamp(min=1) * self.num_positions
        return pair_matrices(counts_DX / positions, len(self.tasks))

    def scores(self, space: Space) -> Tensor:
        """Layer scores of one subspace: float64, (D,)."""
        if self.both is not None:
            return self._image_scores(space).mean(0)
        positions = self.num_images * self.num_positions * max(1, len(self.pairs))
        return self._layer_counts(space).sum(0).to(torch.float64) / positions

    def dissimilarities(self) -> Tensor:
        """1 - cosine of each pair: float64, (D, K, K), symmetric, diagonal 0.

        Raises:
            ValueError: If the gradients were not compared.
        """
        if self.cosines is None:
            raise ValueError("cosines must be measured for this, got None.")
        return pair_matrices(1.0 - self.cosines, len(self.tasks))

    def score_errors(self, space: Space) -> Tensor:
        """Standard errors of the scores over images: float64, (D,); infinite for a single image."""
        return _standard_error(self._image_scores(space))

    def pair_errors(self, space: Space) -> Tensor:
        """Standard errors of the rates over images: float64, (D, K, K); infinite for a single image."""
        rates_IDX = self._counts(space).to(torch.float64) / self.num_positions
        if self.both is None:
            return pair_matrices(_standard_error(rates_IDX), len(self.tasks))
        errors = [
            _standard_error(rates_IDX[there, :, pair])
            if there.any()
            else torch.full((self.num_layers,), math.inf, dtype=torch.float64)
            for pair, there in enumerate(self.both.T)
        ]
        return pair_matrices(torch.stack(errors, dim=1), len(self.tasks))

    def ranking(self, space: Space) -> tuple[int, ...]:
        """Layers, most conflicts first; equal scores by lower layer index. Compared as integers."""
        # As if every pair had equally many images, which dividing by the images of the pair would only
        # approximate.
        images = [max(1, each) for each in self._images_X.tolist()]
        common = math.lcm(*images)
        totals = [
            sum(count * (common // each) for count, each in zip(row, images, strict=True))
            for row in self._counts(space).sum(0).tolist()
        ]
        return tuple(sorted(range(self.num_layers), key=lambda layer: (-totals[layer], layer)))

    def ties(self, space: Space) -> tuple[bool, ...]:
        """Whether each layer of the ranking cannot be distinguished from the next (D - 1 answers; ours).

        Two layers tie if their mean difference over the images is within 2 of its standard errors. The
        differences are paired by image, so effects that make an image hard at every layer cancel.
        """
        order = list(self.ranking(space))
        of_images = self._layer_counts(space) if self.both is None else self._image_scores(space)
        ranked_ID = of_images.to(torch.float64)[:, order]
        differences = ranked_ID[:, :-1] - ranked_ID[:, 1:]
        within = differences.mean(0).abs() <= 2.0 * _standard_error(differences)
        return tuple(bool(tie) for tie in within)

    def distinguishable(self, space: Space) -> float:
        """Probability of layer differences this large if all layers had equal conflict rates (ours).

        Friedman's test with images as blocks and layers as treatments: mid-ranks, correction for ties,
        chi-square with D - 1 degrees of freedom. 1 when there is nothing to compare.
        """
        return _friedman_p_value(self._layer_counts(space))

    def summary(self) -> str:
        """One sentence per subspace: spread, error, and whether the ranking differs from chance."""
        if not self.pairs:
            return f"There is one task ({self.tasks[0]}), so there are no conflicts."
        return "\n".join((self._sentence("range"), self._sentence("null")))

    def table(self) -> str:
        """One line per layer with scores, standard errors, ranks and ties; :meth:`summary` goes with it."""
        columns = []
        for space in ("range", "null"):
            scores, errors = self.scores(space).tolist(), self.score_errors(space).tolist()
            order, ties = self.ranking(space), (*self.ties(space), False)
            ranks = {layer: f"{rank + 1}{'~' if ties[rank] else ' '}" for rank, layer in enumerate(order)}
            columns += [
                [
                    f"{score:.4f} ± {error:.4f}" if math.isfinite(error) else f"{score:.4f} ± ?"
                    for score, error in zip(scores, errors, strict=True)
                ],
                [ranks[layer] for layer in range(self.num_layers)],
            ]
        header: tuple[str, ...] = ("layer", "range dim", "range conflicts", "rank", "null conflicts", "rank")
        if self.cosines is not None:
            header = (*header, "gradient cosine")
            columns.append([f"{mean:+.3f}" for mean in self.cosines.mean(1).tolist()])
        rows = [
            (str(layer), f"{range_dim}/{self.embed_dim}", *(column[layer] for column in columns))
            for layer, range_dim in enumerate(self.range_dims)
        ]
        head = (
            f"Conflicts of {', '.join(self.tasks)} at {self.num_positions} tokens of each of "
            f"{self.num_images} images, variance ratio {self.variance_ratio:g}"
        )
        legend = "~ tie: within 2 standard errors of the next rank"
        beside = gain_table(self.gains)
        return "\n".join([textwrap.fill(head, 96), format_table(header, rows), legend, *beside])

    def to_json(self) -> str:
        """The report as one line of JSON."""
        optional = {"both": self.both, "cosines": self.cosines, "gains": self.gains}
        return json.dumps(
            {
                "tasks": self.tasks,
                "variance_ratio": self.variance_ratio,
                "embed_dim": self.embed_dim,
                "num_positions": self.num_positions,
                "range_dims": self.range_dims,
                "range_counts": self.range_counts.tolist(),
                "null_counts": self.null_counts.tolist(),
                **{name: values.tolist() for name, values in optional.items() if values is not None},
            }
        )

    @classmethod
    def from_json(cls, text: str) -> ConflictReport:
        """Read what :meth:`to_json` wrote."""
        form: dict[str, Any] = json.loads(text)
        for name in ("tasks", "range_dims"):
            form[name] = tuple(form[name])
        for name in ("range_counts", "null_counts"):
            form[name] = torch.tensor(form[name], dtype=torch.int64)
        for name, dtype in (("both", torch.bool), ("cosines", torch.float64), ("gains", torch.float64)):
            if name in form:
                form[name] = torch.tensor(form[name], dtype=dtype)
        return cls(**form)

    def save(self, path: str | Path) -> None:
        """Write the report as a JSON file."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> ConflictReport:
        """Read what :meth:`save` wrote."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))

    def _counts(self, space: Space) -> Tensor:
        return self.range_counts if space == "range" else self.null_counts

    @property
    def _images_X(self) -> Tensor:
        """Images of each pair, int64."""
        if self.both is None:
            return torch.full((len(self.pairs),), self.num_images)
        return self.both.sum(0)

    def _layer_counts(self, space: Space) -> Tensor:
        """Conflicts of all pairs together, int64, (I, D)."""
        return self._counts(space).sum(2)

    def _image_scores(self, space: Space) -> Tensor:
        """Score of each single image, float64, (I, D). If labels are missing: values with the score as their
        mean and the same variation."""
        positions = self.num_positions * max(1, len(self.pairs))
        if self.both is not None:
            images_X = self._images_X.to(torch.float64)
            rates_IDX = self._counts(space).to(torch.float64) / self.num_positions
            means_DX = rates_IDX.sum(0) / images_X.clamp(min=1)
            weight_IX = self.both * self.num_images / images_X.clamp(min=1)
            sums_ID = (means_DX + weight_IX[:, None] * (rates_IDX - means_DX)).sum(2)
            return sums_ID / (images_X > 0).sum()
        return self._layer_counts(space).to(torch.float64) / positions

    def _sentence(self, space: Space) -> str:
        order, ties, scores = self.ranking(space), self.ties(space), self.scores(space)
        spread = (
            f"{space.capitalize()} conflicts lie between {scores.min():.4f} (layer {order[-1]}) and "
            f"{scores.max():.4f} (layer {order[0]})"
        )
        if self.num_images == 1:
            return f"{spread}; one image cannot show whether that differs from chance."
        error = f"standard error up to {self.score_errors(space).max():.4f}"
        if self.num_layers == 1:
            return f"{spread}, {error}; there is one layer, so there is no ranking."
        p_value = self.distinguishable(space)
        verdict = "distinguishable" if p_value <= SIGNIFICANCE else "not distinguishable"
        return (
            f"{spread}, {error}: the ranking of the layers is {verdict} from chance "
            f"(Friedman test over {self.num_images} images, p={p_value:.2g}); "
            f"{sum(ties)} of its {len(ties)} neighbouring ranks are ties."
        )


def pair_matrices(values: Tensor, num_tasks: int) -> Tensor:
    """Values of the unordered pairs (..., pairs) as symmetric matrices (..., K, K), zero on the diagonal."""
    first, second = torch.triu_indices(num_tasks, num_tasks, offset=1)
    matrices = values.new_zeros(*values.shape[:-1], num_tasks, num_tasks)
    matrices[..., first, second] = values
    matrices[..., second, first] = values
    return matrices


def _standard_error(values: Tensor) -> Tensor:
    """Standard error of the mean over the first dimension, from the sample standard deviation."""
    if len(values) < 2:
        return torch.full_like(values[0], math.inf)
    squares = (values - values.mean(0)).square().sum(0)
    return (squares / (len(values) - 1) / len(values)).sqrt()


def _friedman_p_value(values: Tensor) -> float:
    """P-value of Friedman's rank test for values of shape (blocks, treatments).

    Source: M. Friedman, "The use of ranks to avoid the assumption of normality", 1937; the tie correction
    divides by ``1 - sum(t^3 - t) / (n (k^3 - k))`` over all groups of t equal values in a block.
    """
    n, k = values.shape
    below = (values[:, None, :] < values[:, :, None]).sum(2)
    equal = (values[:, None, :] == values[:, :, None]).sum(2)
    ranks = below + (equal + 1) / 2.0
    correction = 1.0 - float((equal**2 - 1).sum()) / (n * (k**3 - k)) if k > 1 else 0.0
    if correction <= 0.0:
        return 1.0
    rank_sums = ranks.to(torch.float64).sum(0)
    statistic = (12.0 * (rank_sums**2).sum() / (n * k * (k + 1)) - 3.0 * n * (k + 1)) / correction
    half = torch.tensor((k - 1) / 2.0, dtype=torch.float64)
    return float(torch.special.gammaincc(half, statistic.clamp(min=0.0) / 2.0))
