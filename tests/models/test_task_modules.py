"""A task may be called as its user likes, though torch has names of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import dtme_search
from dtme_search.models.task_modules import TaskModules

TAKEN = [
    "values",
    "type",
    "half",
    "training",
    "items",
    "keys",
    "pop",
    "float",
    "forward",
    "T_destination",
    "modules",
]


@pytest.mark.parametrize("name", TAKEN)
def test_names_of_torch_are_names_of_tasks_too(name):
    modules = TaskModules({name: nn.Linear(2, 3), "depth": nn.Linear(2, 1)})
    assert name in modules and "other" not in modules
    assert list(modules) == list(modules.keys()) == [name, "depth"]
    assert modules[name](torch.zeros(1, 2)).shape == (1, 3)
    assert modules.train().training and not modules.eval().training
    again = TaskModules({name: nn.Linear(2, 3), "depth": nn.Linear(2, 1)})
    again.load_state_dict(modules.state_dict())
    assert torch.equal(again[name].weight, modules[name].weight)


def test_other_names_are_those_of_a_checkpoint():
    assert set(TaskModules({"semseg": nn.Linear(2, 3)}).state_dict()) == {"semseg.weight", "semseg.bias"}


def test_no_model_keeps_modules_by_task_in_any_other_way():
    models = Path(dtme_search.__file__).parent / "models"
    found = {
        path.name for path in models.rglob("*.py") if "nn.ModuleDict(" in path.read_text(encoding="utf-8")
    }
    # That of multitask.py is by layer, that of lora.py by map, the other is the class itself.
    assert found == {"multitask.py", "lora.py", "task_modules.py"}
