"""Images per minute of the exact edge measure, against the plain way on the same maps with equal counts.

The maps have the size of NYUD (425x560): outlines of random regions as truth, and as predictions

coarse   the truth, shifted and noisy, at 1/16 of the size and enlarged bilinearly: what a decoder on
         16-pixel patches gives
sharp    the truth, shifted and blurred by a pixel, among noise

The plain way scores each threshold from scratch: thinning that looks at all pixels in every pass, and SciPy's
maximum matching of a new sparse matrix. It scores small images, and every tenth threshold of one of full
size, where its time is ten times that. Every count that it gives is compared. Times of one image are
processor time; that of the whole set is waiting time with all processes, without starting them.

    python benchmarks/edge_scoring.py [--images 24]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import joblib
import numpy as np
import torch
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree

from dtme_search.data.derive import thin as thin_plainly
from dtme_search.metrics import OdsFMeter
from dtme_search.metrics.boundaries import THRESHOLDS, count_boundaries, suppress_non_maxima
from dtme_search.tasks import EDGE_TOLERANCE, edge

NYUD_SIZE = (425, 560)
NYUD_IMAGES = 654
NUM_REGIONS = 40
KINDS = ("coarse", "sharp")


def make_maps(kind: str, size: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Edge probability in 8 bits, and the true edges."""
    rng = np.random.default_rng(seed)
    centres = rng.random((NUM_REGIONS, 2)) * size
    y, x = np.indices(size)
    nearest = ((y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2).argmin(-1)
    truth = np.zeros(size, bool)
    truth[:, :-1] |= nearest[:, :-1] != nearest[:, 1:]
    truth[:-1] |= nearest[:-1] != nearest[1:]
    moved = np.roll(truth, rng.integers(-4, 5, 2), (0, 1)).astype(float)
    if kind == "coarse":
        small = ndimage.zoom(ndimage.gaussian_filter(moved, 8), 1 / 16, order=1)
        small += 0.3 * small.std() * rng.normal(size=small.shape)
        soft = ndimage.zoom(small, np.divide(size, small.shape), order=1)
        soft = 0.8 * soft / soft.max()
    else:
        noise = ndimage.gaussian_filter(rng.normal(size=size), 2)
        soft = 2 * ndimage.gaussian_filter(moved, 1) + 0.15 * noise / noise.std()
    return (255 * soft.clip(0, 1)).astype(np.uint8), truth


def count_plainly(
    codes: np.ndarray, truth: np.ndarray, thresholds: Sequence[float]
) -> tuple[int, list[int], list[int]]:
    """Each threshold from scratch."""
    strength = suppress_non_maxima(codes / 255)
    true_points = np.argwhere(thin_plainly(truth))
    tree = cKDTree(true_points)
    radius = EDGE_TOLERANCE * math.hypot(*codes.shape)
    predicted, matched = [], []
    for threshold in thresholds:
        points = np.argwhere(thin_plainly(strength > threshold))
        near = tree.query_ball_point(points, radius) if len(points) else []
        ends = np.cumsum([0, *map(len, near)])
        others = np.concatenate([*near, []]).astype(np.int32)
        graph = csr_array(
            (np.ones(len(others), np.int8), others, ends), shape=(len(points), len(true_points))
        )
        predicted.append(len(points))
        matched.append(int((maximum_bipartite_matching(graph) >= 0).sum()) if len(others) else 0)
    return len(true_points), predicted, matched


def compare(kind: str, size: tuple[int, int], num_images: int, every: int = 1) -> None:
    """Both ways on the same maps: equal counts, and what each took."""
    fast, plain = [], []
    for seed in range(num_images):
        codes, truth = make_maps(kind, size, seed)
        start = time.process_time()
        counts = count_boundaries(codes, truth, np.ones_like(truth), EDGE_TOLERANCE)
        fast.append(time.process_time() - start)
        start = time.process_time()
        expected = count_plainly(codes, truth, THRESHOLDS[::every])
        plain.append(every * (time.process_time() - start))
        found = (counts.num_true, counts.predicted[::every].tolist(), counts.matched[::every].tolist())
        if found != expected:
            raise SystemExit(f"{kind} {size}, seed {seed}: the counts differ")
    ours, theirs = statistics.median(fast), statistics.median(plain)
    print(
        f"{kind:7} {size[0]}x{size[1]}  {ours:8.3f} s  {theirs:8.2f} s  "
        f"{theirs / ours:6.1f}  equal on {num_images}",
        flush=True,
    )


def score_set(kind: str, num_images: int) -> None:
    """Waiting time of the meter on a set, from which that of all of NYUD follows."""
    maps = [make_maps(kind, NYUD_SIZE, seed) for seed in range(num_images)]
    codes, truth = (torch.from_numpy(np.stack(each))[:, None] for each in zip(*maps, strict=True))
    logits = ((codes.double() + 0.5) / 255).clamp(max=1).logit(eps=1e-9).float()
    valid = torch.ones_like(truth)
    meter = OdsFMeter(replace(edge(), metric="ods_f"))
    meter.update(logits[:8], truth[:8].float(), valid[:8])  # starts the processes
    start = time.perf_counter()
    for first in range(0, num_images, 12):
        chosen = slice(first, first + 12)
        meter.update(logits[chosen], truth[chosen].float(), valid[chosen])
    seconds = time.perf_counter() - start
    print(
        f"{kind:7} {60 * num_images / seconds:.0f} images a minute in batches of 12, so "
        f"{NYUD_IMAGES} images in {NYUD_IMAGES * seconds / num_images / 60:.1f} minutes; "
        f"odsF {100 * meter.compute():.2f} %"
    )


def main() -> None:
    """Print a table and an extrapolation for each kind of map."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=24, help="images of the set that is timed")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print("maps    size         one image  plain way   ratio  counts")
    for kind in KINDS:
        compare(kind, (64, 96), 5)
        compare(kind, NYUD_SIZE, 1, every=10)
    print(f"\nWhole sets with {joblib.cpu_count()} processes, extrapolated from {chosen.images} images:")
    for kind in KINDS:
        score_set(kind, chosen.images)


if __name__ == "__main__":
    main()
