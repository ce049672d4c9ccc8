"""What authors of ways to combine are told: each mistake by its method and rule."""

import pytest
import torch

from dtme_search.combine import CombineKind, LossWeighting, Merged, Weighted
from dtme_search.testing import BrokenRule, check_combine


class Running(LossWeighting):
    """1 / running mean of the losses; right."""

    def __init__(self, setting):
        self.mean = torch.ones(setting.num_tasks)

    def weights(self, seen):
        return 1 / self.mean

    def learn(self, seen):
        self.mean = torch.where(seen.counted_K, 0.9 * self.mean + 0.1 * seen.losses_K, self.mean)

    def state(self):
        return {"mean": self.mean}

    def restore(self, state):
        self.mean = state["mean"]


class Short(Running):
    def weights(self, seen):
        return torch.ones(2)


class Negative(Running):
    def weights(self, seen):
        return -self.mean


class Listed(Running):
    def weights(self, seen):
        return [1.0, 1.0, 1.0]


class Forgetful(Running):
    def restore(self, state):
        pass


class Numbers(Running):
    def state(self):
        return {"mean": 1.0}


class Failing(Running):
    def learn(self, seen):
        raise RuntimeError("two lines\nof it")


class Lost(Running):
    def restore(self, state):
        self.mean = state["means"]


def test_right_methods_of_each_kind_pass():
    check_combine(CombineKind(Running))
    check_combine(CombineKind(lambda _: Weighted(lambda gram, _: torch.ones(len(gram)).double())))
    check_combine(CombineKind(lambda _: Merged(lambda gradients, _: gradients.sum(0))))


def doubled(gram, _):
    return gram.mul_(2).sum(1)


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (Short, r"weights must give a tensor of shape \(3,\), got \(2,\)"),
        (Listed, r"weights must give a tensor of shape \(3,\), got list"),
        (Negative, r"weights must give finite numbers of 0 or more to active tasks, got \[-1.0, .*at step 0"),
        (Forgetful, r"state and restore must let a run that is resumed after 1 steps go on"),
        (Numbers, r"state must give names with tensors, got \{'mean': 1.0\}"),
        (Failing, r"learn must not fail, got RuntimeError: two lines"),
        (Lost, r"restore must not fail, got KeyError: 'means'"),
        (lambda _: None, r"build must give a LossWeighting, Weighted or Merged .*got NoneType"),
        (lambda s: s.nothing, r"build must not fail, got AttributeError"),
        (
            lambda _: Weighted(lambda gram, _: gram),
            r"weights must give a tensor of shape \(2,\)",
        ),
        (lambda _: Weighted(lambda gram, _: 1 / (gram[0] - gram[0])), r"weights must give finite numbers"),
        (lambda _: Weighted(doubled), r"weights must not change the tensor that it gets"),
        (
            lambda _: Weighted(lambda gram, _: torch.rand(len(gram))),
            r"weights must give the same for",
        ),
        (lambda _: Merged(lambda rows, _: rows), r"merge must give a tensor of shape \(8,\), got \(2, 8\)"),
        (lambda _: Merged(lambda rows, _: rows.sum(0) / 0), r"merge must give finite numbers"),
    ],
)
def test_a_mistake_is_named(build, rule):
    with pytest.raises(
        BrokenRule, match=rf"^way to combine 'mine': {rule}.*See docs/plugins\.md\.$"
    ) as caught:
        check_combine(CombineKind(build), name="mine")
    assert "\n" not in str(caught.value)
