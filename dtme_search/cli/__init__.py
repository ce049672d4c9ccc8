"""The command line: parse, call, print, exit code. Nothing is decided here.

torch, timm, optuna, pandas and rich are imported inside the commands, so that ``--help`` answers at once.
Files of commands do not use ``from __future__ import annotations``: typer would then evaluate every
annotation twice, a sixth of that time.
"""

from dtme_search.cli.main import main

__all__ = ["main"]
