"""Whether what a study asks for exists: tasks, directions, operations that can be counted."""

from __future__ import annotations

from collections.abc import Mapping

from dtme_search.config import RunConfig, StudyConfig
from dtme_search.config.measures import tasks_of
from dtme_search.errors import BrokenRule, ConfigError, nearest
from dtme_search.models import describe_backbone
from dtme_search.search.space.search_space import SearchSpace
from dtme_search.search.trial.inference import FlopsCounter
from dtme_search.tasks import TaskSpec
from dtme_search.token_space import ExpansionPlan


def check_named_tasks(study: StudyConfig, space: SearchSpace) -> None:
    """Refuse measures of tasks that are not primary in every trial.

    Raises:
        ConfigError: Names the measure and the task.
    """
    primary = space.base.primary_tasks
    searched = {parameter.path for parameter in space.parameters}
    for name in study.measures:
        tasks = tasks_of(name)
        for task in tasks:
            where = f"study {study.name}: {name} must name primary tasks of the base config"
            if task not in primary:
                raise ConfigError(f"{where} ({', '.join(primary)}), got '{task}'.{nearest(task, primary)}")
            if f"tasks.{task}.role" in searched:
                raise ConfigError(f"{where}, got '{task}', whose role is searched. Name another task.")
        if len(set(tasks)) != len(tasks):
            raise ConfigError(f"study {study.name}: {name} must name each task once.")


def check_against_data(study: StudyConfig, base: RunConfig, specs: Mapping[str, TaskSpec]) -> None:
    """Refuse to worsen a metric, and to count what cannot be counted.

    Raises:
        ConfigError: Names the measure.
    """
    for name, direction in study.objectives.items():
        if name.startswith("metric."):
            spec = specs[tasks_of(name)[0]]
            wanted = "maximize" if spec.higher_is_better else "minimize"
            if direction != wanted:
                raise ConfigError(
                    f"study {study.name}: objectives.{name} must be {wanted} ({spec.metric}: "
                    f"{'higher' if spec.higher_is_better else 'lower'} is better), got {direction}."
                )
    if "inference_flops_ratio" in study.measures:
        try:
            num_layers = describe_backbone(base.model, base.data.image_size, base.plugins).num_layers
            FlopsCounter(specs)(base, ExpansionPlan.empty(tuple(base.tasks), num_layers))
        except (RuntimeError, NotImplementedError, BrokenRule) as error:  # a part of the user's own
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"study {study.name}: inference_flops_ratio needs a model that runs on PyTorch's meta "
                f"device, got {type(error).__name__}: {reason}. Use latency_ms."
            ) from error
