"""The command line: parse, call, print, exit code. Nothing is decided here.

torch, timm, optuna, pandas and rich are imported inside the commands, so that ``--help`` answers at once.
"""

from dtme_search.cli.main import main

__all__ = ["main"]
