"""Modules by task, whatever the tasks are called."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView
from typing import Any

from torch import nn

_TAKEN = frozenset(dir(nn.ModuleDict())) | {"training"}


class TaskModules(nn.ModuleDict):
    """A ``ModuleDict`` that also accepts tasks called ``values``, ``type``, ``half`` or ``training``.

    Torch stores modules as attributes, so the names of its own attributes are taken. The module of such a
    task gets another name in a checkpoint, ``task-values``, which no task can have. All others keep their
    name.
    """

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(_stored(key))

    def __setitem__(self, key: str, module: nn.Module) -> None:
        super().__setitem__(_stored(key), module)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and super().__contains__(_stored(key))

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> KeysView[str]:
        """Tasks."""
        return {task: None for task, _ in self.items()}.keys()

    def items(self) -> ItemsView[str, nn.Module]:
        """Tasks and their modules."""
        return {name.removeprefix("task-"): module for name, module in super().items()}.items()


def _stored(task: str) -> str:
    return f"task-{task}" if task in _TAKEN else task
