"""DTME_TEST_DEVICE: what tests make goes to the device, what the package makes stays where it puts it."""

from __future__ import annotations

import torch
from device import TensorsOfTests

from dtme_search.token_space import ConflictReport

META = torch.device("meta")  # every build of torch has it


def test_tensors_of_a_test_go_to_the_device_with_the_draws_of_the_cpu():
    generator = torch.Generator().manual_seed(0)
    with TensorsOfTests(META):
        assert torch.ones(2).device == torch.randn(2, generator=generator).device == META
        assert torch.ones(2, device="cpu").device.type == "cpu"
    assert torch.ones(2).device.type == "cpu"


def test_tensors_of_the_package_do_not():
    """Else a tensor on the wrong device would be moved to the right one, and no test would tell."""
    counts = torch.zeros(2, 1, 1, dtype=torch.int64)
    report = ConflictReport(("a", "b"), 100.0, 4, 7, (2,), counts, counts)
    with TensorsOfTests(META):
        assert ConflictReport.from_json(report.to_json()).range_counts.device.type == "cpu"
