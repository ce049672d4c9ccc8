"""A command run in this process; how it ended holds the exception, too."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from dtme_search.cli.main import app


def invoke(*words: object) -> Result:
    """Run ``dtme-search WORDS``."""
    return CliRunner().invoke(app, list(map(str, words)))
