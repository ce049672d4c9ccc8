"""Trained networks as files that run without this program: ONNX and ``torch.export``."""

from dtme_search.deploy.files import ENDINGS, Description, Opened, open_file
from dtme_search.deploy.making import Deployed, deploy_run

__all__ = ["ENDINGS", "Deployed", "Description", "Opened", "deploy_run", "open_file"]
