"""Fixtures for tests that train: a run so small that it takes a second."""

from __future__ import annotations

import pytest

from dtme_search.config import RunConfig

TINY = {
    "data": {
        "name": "scenes",
        "image_size": [32, 48],
        "scenes": {"num_train": 24, "num_test": 4},
        "augment": {"scale": [1.0, 1.3]},
    },
    "model": {
        "backbone": "vit_tiny_patch16_224",
        "backbone_options": {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2},
    },
    "expansion": {"policy": "none", "num_images": 6, "analysis_batch_size": 3},
    "train": {
        "num_steps": 10,
        "batch_size": 4,
        "optimizer": "adamw",
        "lr": 1e-3,
        "num_evaluations": 2,
        "eval_batch_size": 4,
    },
}
"""Plain values of a config; tests change a field through ``--set`` or ``model_copy``."""


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Rendered scenes and derived labels of the tests go to a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTME_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name in ("DTME_STORAGE", "DTME_DATA_ROOT"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tests share the machine with other processes; waiting threads make torch several times slower then."""
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def tiny_config() -> RunConfig:
    """Four tasks, three layers, ten steps, no growth."""
    return RunConfig.model_validate(TINY)
