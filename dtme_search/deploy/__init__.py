"""Trained networks elsewhere: ONNX and ``torch.export`` files that run without us, folders for model hubs."""

from dtme_search.deploy.files import ENDINGS, Description, Opened, open_file
from dtme_search.deploy.hub import publish_run
from dtme_search.deploy.making import Deployed, deploy_run

__all__ = [
    "ENDINGS",
    "Deployed",
    "Description",
    "Opened",
    "deploy_run",
    "open_file",
    "publish_run",
]
