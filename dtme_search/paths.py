"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """A path with the home folder in the place of its ``~``.

    As it is written where no home is known, as in containers that run as a user without a name: then the
    message about a missing folder shows it. ``Path.expanduser`` raises an error instead.
    """
    return Path(os.path.expanduser(path))
