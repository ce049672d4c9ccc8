"""The wheel and the archive of sources, built once."""

from __future__ import annotations

from pathlib import Path

import pytest
from environments import ROOT, Environment, build, make_environment


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both."""
    return build(ROOT, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    """What users install."""
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    """An environment without any extra."""
    return make_environment(tmp_path_factory.mktemp("installed") / "env", wheel)
