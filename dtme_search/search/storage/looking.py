"""Read a database without write access: if SQLite cannot work in place, in a copy."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from dtme_search.errors import StorageError
from dtme_search.search.storage.database import is_file, parse_url


def readable_url(url: str) -> str:
    """The database itself, or a copy in a temporary folder if its folder or file cannot be written.

    SQLite needs files beside the database even to read one that has a write-ahead log. The contents of that
    log are copied too. The copy is removed when the process ends.

    Raises:
        StorageError: If there is no room for a copy, or the file cannot be read.
    """
    if not is_file(url):
        return url
    path = Path(parse_url(url).database or "")
    if not path.is_file() or (os.access(path, os.W_OK) and os.access(path.absolute().parent, os.W_OK)):
        return url
    folder = Path(tempfile.mkdtemp(prefix="dtme-search-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        for source in (path, path.with_name(f"{path.name}-wal")):
            if source.exists():
                shutil.copyfile(source, folder / source.name)
    except OSError as error:
        raise StorageError(
            f"{path}: is on a read-only disk, and no copy could be made in {folder}: "
            f"{error.strerror}. Copy it yourself and pass the copy with --storage."
        ) from error
    return parse_url(url).set(database=str(folder / path.name)).render_as_string(hide_password=False)
