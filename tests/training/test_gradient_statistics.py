"""Looks at gradients: right numbers by a plain loop, and a run that does not notice them."""

from __future__ import annotations

import pytest
import torch
from device import DEVICE
from runs import assert_same_run, trainer, with_
from tiny import TINY

from dtme_search.config import RunConfig
from dtme_search.data import build_data
from dtme_search.models import build_model
from dtme_search.training.forward import TaskLosses
from dtme_search.training.gradient_statistics import ALL, compare_gradients, layer_groups

TASKS = ("semseg", "depth", "normals", "edge")


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return RunConfig.model_validate(TINY)


@pytest.fixture(scope="module")
def data(config):
    return build_data(config.data, TASKS, DEVICE)


def test_against_a_plain_loop(config, data):
    model = build_model(config.model, data.specs, data.image_size, seed=0).train()
    losses = TaskLosses(config.train, model, data)
    found = {
        (row.layer_group, row.pair, row.task_a, row.task_b): row
        for row in compare_gradients(losses, TASKS, 3, 7)
    }
    assert len(found) == (3 + 2 + 1) * (6 + 4)  # three blocks, embedding, norm, all; pairs of tasks, tasks
    model.eval()
    gradients = {}
    for index, batch in enumerate(data.analysis_batches(3, 1, 7)):
        for task in ("depth", "edge"):
            model.zero_grad()
            losses(batch, (task,))[task].backward()
            block = [each.grad.flatten() for each in model.backbone.blocks[1].parameters()]
            every = [each.grad.flatten() for each in model.backbone.parameters() if each.grad is not None]
            gradients[index, task] = torch.cat(block), torch.cat(every)

    def mean_over(pairs, which):
        cosines, sizes, opposed = [], [], []
        for one, other in pairs:
            first, second = gradients[one][which], gradients[other][which]
            cosines.append(torch.cosine_similarity(first, second, 0))
            sizes.append(2 * first.norm() * second.norm() / (first.norm() ** 2 + second.norm() ** 2))
            opposed.append((first * second < 0).double().mean())
        return [float(torch.stack(each).double().mean()) for each in (cosines, sizes, opposed)]

    same_image = [((index, "depth"), (index, "edge")) for index in range(3)]
    neighbours = [((index, "depth"), (index + 1, "depth")) for index in range(2)]
    for pair, other, pairs in (("tasks", "edge", same_image), ("images", "depth", neighbours)):
        for which, group in enumerate(("block 1", ALL)):
            row = found[group, pair, "depth", other]
            assert row.num_pairs == len(pairs)
            expected = mean_over(pairs, which)
            assert [row.cosine, row.magnitude_similarity, row.conflicting] == pytest.approx(
                expected, rel=1e-3, abs=1e-6
            )
    assert model.training is False or model.eval()


def test_layer_groups_hold_every_shared_parameter_once(config, data):
    model = build_model(config.model, data.specs, data.image_size, seed=0)
    groups = layer_groups(model)
    assert list(groups) == ["embedding", "block 0", "block 1", "block 2", "norm"]
    assert sum(map(len, groups.values())) == len(list(model.backbone.parameters()))


def test_a_run_does_not_notice_the_looks(config, data):
    """With stochastic depth, batch norm, growth, and a switch that leaves one task."""
    fields = {
        "expansion__policy": "fixed",
        "expansion__start": 0.5,
        "expansion__plan": {"modulate": {1: [["depth"]]}},
        "model__drop_path": 0.2,
        "tasks__depth__role": "auxiliary",
        "schedule": {"kind": "switch", "switch_at": 0.8},
    }
    plain = trainer(with_(config, **fields), data)
    expected = plain.run()
    looks = []
    watched = with_(config, **fields, train__statistics={"every": 4, "images": 2})
    run = trainer(watched, data, on_gradients=lambda *seen: looks.append(seen))
    result = run.run()
    assert_same_run(plain, expected, run, result)
    assert run.fingerprint == plain.fingerprint
    assert [(step, grown) for step, grown, _ in looks] == [
        (0, False),
        (4, False),
        (5, False),
        (5, True),
        (8, True),
    ]
    assert {row.pair for row in looks[0][2]} == {"tasks", "images"}
    assert not any("depth" in (row.task_a, row.task_b) for row in looks[-1][2])


def test_a_frozen_backbone_has_nothing_to_compare(config, data):
    model = build_model(config.model, data.specs, data.image_size, seed=0)
    model.backbone.requires_grad_(False)
    assert compare_gradients(TaskLosses(config.train, model, data), TASKS, 2, 0) == []
