"""Where a run happens and with which arithmetic."""

import os

import pytest
import torch

from dtme_search.config import DataConfig, TrainConfig
from dtme_search.data.batches.storage import WORKERS_PER_GPU, fits_on_device
from dtme_search.errors import ConfigError
from dtme_search.training import pick_device
from dtme_search.training.runtime import precision, run_numerics

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize(
    ("wanted", "device", "has_bfloat16", "expected"),
    [
        ("auto", CPU, True, "float32"),
        ("auto", CUDA, True, "bfloat16"),
        ("auto", CUDA, False, "float32"),
        ("float32", CUDA, True, "float32"),
        ("bfloat16", CUDA, False, "bfloat16"),
    ],
)
def test_bfloat16_where_the_card_computes_with_it(monkeypatch, wanted, device, has_bfloat16, expected):
    monkeypatch.setattr("dtme_search.training.runtime._has_bfloat16", lambda _: has_bfloat16)
    assert precision(TrainConfig(precision=wanted), device) == expected


def test_a_gpu_that_is_not_there_is_named_with_how_many_there_are(monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    with pytest.raises(ConfigError, match=r"must exist, got 'cuda:2' where there are 2 CUDA devices"):
        pick_device("cuda:2")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert current == [torch.device("cuda:1")]


@pytest.mark.parametrize("deterministic", ["auto", "always", "never"])
def test_the_arithmetic_of_a_run_is_stated_and_given_back(deterministic):
    flags = torch.backends.cudnn

    def stated():
        return (
            flags.benchmark,
            flags.deterministic,
            flags.allow_tf32,
            torch.are_deterministic_algorithms_enabled(),
        )

    before = stated()
    exact = deterministic != "never"
    with run_numerics(TrainConfig(deterministic=deterministic), CPU):
        assert stated() == (not exact, exact, False, exact)
        assert not torch.backends.cuda.matmul.allow_tf32
    assert stated() == before
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


@pytest.mark.parametrize(("sharers", "fits"), [(None, True), ("1", True), ("4", False)])
def test_workers_that_share_a_gpu_leave_room_for_each_other(monkeypatch, sharers, fits):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (7e9, 8e9))
    if sharers is not None:
        monkeypatch.setenv(WORKERS_PER_GPU, sharers)
    assert fits_on_device(int(3e9), DataConfig(), CUDA) is fits
