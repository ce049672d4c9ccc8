"""Where the tests of models, training, token space, combining and metrics run.

``DTME_TEST_DEVICE=cuda:0 pytest`` runs them there instead of on the CPU: tensors that a test makes go to that
device, and so do the models and data of the fixtures. Tensors that the package makes stay where it puts them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

DEVICE = torch.device(os.environ.get("DTME_TEST_DEVICE") or "cpu")

_TESTS = str(Path(__file__).parent)
_FACTORIES = {
    *(torch.arange, torch.as_tensor, torch.eye, torch.full, torch.from_numpy, torch.linspace, torch.logspace),
    *(torch.ones, torch.rand, torch.randint, torch.randn, torch.randperm, torch.tensor, torch.zeros),
}


class TensorsOfTests(TorchFunctionMode):
    """Moves to a device what a file of tests makes without naming one; draws are those of the CPU."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        made = func(*args, **named)
        if func not in _FACTORIES or "device" in named:
            return made
        is_ours = sys._getframe(1).f_code.co_filename.startswith(_TESTS)
        return made.to(self.device) if is_ours else made
