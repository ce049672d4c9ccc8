"""What authors of schedules are told: each mistake by its method and rule, in a check and in a run alike."""

import pytest

from dtme_search.schedules import Memoryless, ScheduleKind
from dtme_search.testing import BrokenRule, check_schedule


class Halving(Memoryless):
    """gamma = 1 / (1 + evaluations); right."""

    def __init__(self, setting):
        self.tasks, self.seen = setting.tasks, 0

    def weights(self, step):
        return self.tasks.scaled(1 / (1 + self.seen))

    def observe(self, step, improved):
        self.seen += 1

    def state(self):
        return {"seen": self.seen}

    def restore(self, state):
        if set(state) != {"seen"}:
            raise ValueError("of another schedule")
        self.seen = state["seen"]


class Negative(Halving):
    def weights(self, step):
        return self.tasks.scaled(-1.0 if step == 30 else 1.0)


class Infinite(Halving):
    def weights(self, step):
        return self.tasks.scaled(float("nan"))


class Some(Halving):
    def weights(self, step):
        return {"semseg": 1.5, "depth": 1.0}


class Nothing(Halving):
    def weights(self, step):
        return None


class Louder(Halving):
    def weights(self, step):
        return {task: 2 * weight for task, weight in self.tasks.weights.items()}


class Random(Halving):
    count = 0

    def __init__(self, setting):
        super().__init__(setting)
        Random.count += 1

    def weights(self, step):
        return self.tasks.scaled(float(Random.count))


class Forgetful(Halving):
    def state(self):
        return {"seen": 0}


class Deaf(Halving):
    def restore(self, state):
        if set(state) != {"seen"}:
            raise ValueError("of another schedule")


class Credulous(Halving):
    def restore(self, state):
        self.seen = state.get("seen", 0)


class Objects(Halving):
    def state(self):
        return {"seen": [self.seen]}


class Curious(Halving):
    def wants(self, step):
        return "hessian"


class Blind(Halving):
    def wants(self, step):
        return "gradient_norm"

    def refresh(self, sizes):
        return sizes["semseg"]


class Failing(Halving):
    def observe(self, step, improved):
        raise KeyError("seen")


class Planned(Halving):
    plateau_step = "soon"


class WithoutState(Halving):
    state = None


def test_a_right_schedule_passes():
    check_schedule(ScheduleKind(Halving))


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (Negative, r"weights must give numbers of 0 or more, got -2.0 for depth at step 30"),
        (Infinite, r"weights must give numbers of 0 or more, got nan for depth at step 0"),
        (Some, r"weights must give every task of the run in its order, .* got \['semseg', 'depth'\]"),
        (Nothing, r"weights must give every task .* got None"),
        (Louder, r"weights must leave primary tasks their weight 1.5, got 3.0 for semseg at step 0"),
        (Random, r"build must give schedules with the same weights in the same run"),
        (Forgetful, r"state and restore must let a run that is resumed after 10 steps go on"),
        (Deaf, r"restore must take over what state gave"),
        (Credulous, r"restore must raise ValueError for the state of another schedule"),
        (Objects, r"state must give names with numbers or None, got \{'seen': \[0\]\}"),
        (Curious, r"wants must give None, 'gradient_norm' or 'fisher_trace', got 'hessian' at step 0"),
        (Blind, r"refresh must not fail, got KeyError: 'semseg'"),
        (Failing, r"observe must not fail, got KeyError: 'seen'"),
        (WithoutState, r"state must be a method of what build gives, a WithoutState"),
        (lambda _: 1 / 0, r"build must not fail, got ZeroDivisionError: division by zero"),
        (lambda _: None, r"weights must be a method of what build gives, a NoneType"),
    ],
)
def test_a_mistake_is_named(build, rule):
    with pytest.raises(BrokenRule, match=rf"^schedule 'mine': {rule}.*See docs/plugins\.md\.$") as caught:
        check_schedule(ScheduleKind(build), name="mine")
    assert "\n" not in str(caught.value)
