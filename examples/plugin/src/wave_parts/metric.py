"""A metric: a meter with update, compute and reset."""

from dtme_search.metrics import MetricKind


class Within25Percent:
    """Share of the pixels whose depth is right to a factor of 1.25, a common measure of depth."""

    def __init__(self, spec, options):
        self.reset()

    def reset(self):
        self.right = self.all = 0

    def update(self, prediction, target, valid):
        prediction, target = prediction[valid], target[valid]
        self.right += ((prediction < 1.25 * target) & (target < 1.25 * prediction)).sum()
        self.all += valid.sum()

    def compute(self):
        if self.all == 0:
            raise ValueError("no valid pixels: delta_1 is not defined.")
        return float(self.right / self.all)


DELTA_1 = MetricKind(Within25Percent, ("distance",), unit="fraction", higher_is_better=True)
