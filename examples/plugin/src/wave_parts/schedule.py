"""A schedule: task weights by step. Derive from Memoryless if they depend on the step alone."""

from dtme_search.config import Section
from dtme_search.schedules import Memoryless, ScheduleKind


class Options(Section):
    """What YAML may say in schedule.options.ramp."""

    end: float = 0.8


class Ramp(Memoryless):
    """The weight of auxiliary tasks falls in a straight line, to 0 at the share ``end`` of the run."""

    def __init__(self, setting):
        self.tasks = setting.tasks
        self.steps = setting.options.end * setting.total_steps

    def weights(self, step):
        return self.tasks.scaled(max(0.0, 1 - step / self.steps))


RAMP = ScheduleKind(Ramp, Options)
