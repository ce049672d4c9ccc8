"""Entry point: a user's mistake is one line and exit code 2, a programming error a traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from dtme_search.cli.app import app
from dtme_search.cli.arguments import hide_passwords
from dtme_search.cli.screen import NEWS
from dtme_search.errors import DtmeSearchError

_ANYWHERE = {"-q", "--quiet", "-v", "--verbose"}
_LOG_FILE = "--log-file"
_DISK_ERRORS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.EIO, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG),
}
"""Errors caused by a folder or a disk that the user named. A missing file is our mistake."""


def main() -> None:
    """Run the command of ``sys.argv``."""
    hide_passwords()
    # torch's CPU threads spin while they wait. Beside any other busy process that makes training several
    # times slower, so they sleep instead. The setting is read when torch is imported, which commands do
    # later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(args=with_flags_first(sys.argv[1:]), prog_name="dtme-search")
    except DtmeSearchError as error:
        _fail(" ".join(line.strip() for line in str(error).splitlines()))
    except OSError as error:
        if error.errno not in _DISK_ERRORS or error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}.")


def with_flags_first(words: Sequence[str]) -> list[str]:
    """Let flags of the program also work after the command.

    Example:
        >>> with_flags_first(["show", "-q", "--study", "demo", "--log-file", "log"])
        ['-q', '--log-file', 'log', 'show', '--study', 'demo']
    """
    flags, others, rest = list[str](), list[str](), list(words)
    while rest:
        word = rest.pop(0)
        is_flag = word in _ANYWHERE or word.partition("=")[0] == _LOG_FILE
        (flags if is_flag else others).append(word)
        if word == _LOG_FILE and rest:
            flags.append(rest.pop(0))
    return flags + others


def _fail(message: str) -> NoReturn:
    NEWS.info("error: %s", message)
    typer.echo(f"dtme-search: {message}", err=True)
    sys.exit(2)
