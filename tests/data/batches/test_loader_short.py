"""A loader whose processes die, fall silent or lack something: the same batches, read by this process."""

from __future__ import annotations

import logging
import os
import resource
import signal

import pytest
import torch
from fake_dataset import FakeDataset

from dtme_search.data.batches import storage
from dtme_search.data.batches.storage import LoaderStorage, what_is_short

ORDER = [[0, 1], [2, 3], [4, 5], [6, 7]]


class Deadly(FakeDataset):
    """The process that reads ``a004`` does not survive it, unless it is the first one."""

    def __init__(self, how):
        super().__init__()
        self.how, self.first = how, os.getpid()

    def read(self, sample_id, tasks):
        if sample_id == "a004" and os.getpid() != self.first:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.how == "error":
                raise OSError(24, "Too many open files")
            else:
                signal.pause()
        return super().read(sample_id, tasks)


def batches(dataset, workers=1):
    specs = {"depth": dataset.tasks["depth"]}
    loader = LoaderStorage(dataset, dataset.ids("train"), specs, (12, 20), torch.device("cpu"), workers)
    return [batch.images for batch in loader.batches(iter(ORDER), ["depth"])]


WHOLE = batches(FakeDataset(), 0)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "error", "silent"])
def test_this_process_reads_on_from_the_batch_in_hand(monkeypatch, caplog, how):
    monkeypatch.setattr(storage, "_SILENT_SECONDS", 3)
    with caplog.at_level(logging.WARNING):
        found = batches(Deadly(how))
    assert all(torch.equal(a, b) for a, b in zip(found, WHOLE, strict=True))
    assert caplog.text.count("This process reads alone") == 1


def test_without_processes_an_error_stays_an_error():
    class Broken(FakeDataset):
        def read(self, sample_id, tasks):
            raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        batches(Broken(), 0)


def test_what_is_short_is_found_before_a_process_starts(monkeypatch, caplog):
    assert what_is_short(0) is None
    assert "MB free, the loader needs" in what_is_short(2**62)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 40))
    assert what_is_short(0) == "a process may open 40 files, the loader needs 256"
    with caplog.at_level(logging.WARNING):
        found = batches(FakeDataset(), 2)
    assert all(torch.equal(a, b) for a, b in zip(found, WHOLE, strict=True))
    assert "may open 40 files" in caplog.text


def test_a_limit_that_may_be_raised_is_raised(monkeypatch):
    raised = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    assert what_is_short(0) is None and raised == [(256, 4096)]
