"""The trained network of a trial stays on disk, if the study keeps it; the study's front decides how long."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from pathlib import Path

from dtme_search.config import StudyConfig
from dtme_search.errors import DiskFullError
from dtme_search.training import Trainer
from dtme_search.training.weights import save_weights

_log = logging.getLogger(__name__)


def keep_weights(
    study: StudyConfig, path: Path, fingerprint: str, trainer: Trainer
) -> Mapping[str, str] | None:
    """Write the network of a trial that was trained to its end; gives where, or ``None`` if none is kept.

    Before the result: a trial that has one needs no further training. A disk that does not take the file
    costs the file and not the trial.
    """
    if study.keep_weights == "none":
        return None
    try:
        save_weights(path, fingerprint, trainer)
    except (DiskFullError, OSError) as error:
        _log.warning("the weights of the trial are not kept: %s", error)
        return None
    return {"host": socket.gethostname(), "path": str(path.absolute())}
