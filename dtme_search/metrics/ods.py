"""The exact edge measure: odsF.

Shapes: B images, H height, W width, T thresholds.
"""

from __future__ import annotations

import joblib
import torch
from torch import Tensor

from dtme_search.metrics.base import check_batch
from dtme_search.metrics.boundaries import THRESHOLDS, count_boundaries
from dtme_search.metrics.f_measure import BestThresholdMeter, valid_boxes

_PIXELS_WORTH_PROCESSES = 2**20
"""Number of pixels in a batch above which several processes pay off; starting them takes seconds."""
_MOST_PROCESSES = 16


class OdsFMeter(BestThresholdMeter):
    """F-measure of boundaries at the best threshold of the whole set (odsF), a fraction.

    F = 2 P R / (P + R) from counts summed over all images, at the best of 101 thresholds ("optimal data-set
    scale", Martin, Fowlkes and Malik, PAMI 2004). ``count_boundaries`` says how one image is counted:
    non-maximum suppression, thinning, and one-to-one matching within ``spec.edge_tolerance`` of the image
    diagonal (0.011 for NYUD, 0.0075 for PASCAL-Context and BSDS).

    Where it differs from the MATLAB and C++ tools behind published values:

    - They look for the cheapest assignment in which leaving a pixel unmatched costs 100 times the largest
      distance, with integer costs and random outlier edges, and vary by about 0.001 from run to run. At that
      price the cheapest assignment is one of the largest, and only its size enters F; here the size is
      exactly that of a maximum matching.
    - Their NYUD truth is the outline of the annotated lines, traced and thinned again, which moves lines by
      up to a pixel; here it is the lines themselves, thinned. In a test at 240x320 their truth gave values
      lower by 0.003 and 0.005. PASCAL-Context is scored there on a list of 2,498 of the 5,105 images and
      from label regions; here on the images and edge labels of the data set.
    - The image is the bounding box of the valid pixels at the size of the tensors: the native size if the
      data set pads and never shrinks, as with NYUD at 448x576. Smaller images have smaller tolerances, while
      suppression and fading keep their pixels: below a diagonal of about 91 pixels at 0.011 a pixel matches
      only its own place, and values say little.

    Pixels that are not valid are neither predicted nor true, even where such an area begins: a line that is
    predicted just inside an unlabelled area does not count.

    The outermost pixels of an image never count as predicted, so a truth with lines there cannot reach 1.
    A set without predicted or without true pixels gives 0. Large images are scored by several processes,
    with the same result.

    Args:
        spec: Task of kind ``mask`` with one channel. Target values above 0.5 are edges.
    """

    thresholds = THRESHOLDS

    def update(self, prediction: Tensor, target: Tensor, valid: Tensor) -> None:
        check_batch(self.spec, prediction, target, valid)
        images = []
        for logits_HW, truth_HW, valid_HW in valid_boxes(prediction, target, valid):
            inside = valid_HW.cpu()
            # In float64, where rounding cannot move a value across one of the 255 steps.
            probability = torch.where(inside, logits_HW.cpu().double(), 0.0).sigmoid()
            codes = (255 * probability).to(torch.uint8)
            images.append((codes.numpy(), truth_HW.cpu().numpy(), inside.numpy()))
        processes = 1
        if sum(codes.size for codes, _, _ in images) >= _PIXELS_WORTH_PROCESSES:
            processes = min(joblib.cpu_count(), _MOST_PROCESSES)
        score = joblib.delayed(count_boundaries)
        counted = joblib.Parallel(n_jobs=processes)(
            score(*image, self.spec.edge_tolerance) for image in images
        )
        for (_, _, inside_HW), counts in zip(images, counted, strict=True):
            num_valid, num_true = torch.tensor(inside_HW.sum()), torch.tensor(int(counts.num_true))
            predicted, matched = torch.from_numpy(counts.predicted), torch.from_numpy(counts.matched)
            self._add(num_valid, num_true, predicted, matched)
