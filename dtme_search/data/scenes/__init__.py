"""The built-in data set: rendered rooms. No download, no GPU, nothing but numpy.

``scene`` defines what a picture consists of, ``furniture`` and ``rooms`` draw one at random, ``raycast``
finds what each ray hits, ``render`` turns that into image and labels, and ``dataset`` numbers, caches and
returns them.
"""

from dtme_search.data.scenes.dataset import ScenesDataset
from dtme_search.data.scenes.render import Rendering, boundaries, render
from dtme_search.data.scenes.rooms import CLASSES, random_scene
from dtme_search.data.scenes.scene import Scene

__all__ = ["CLASSES", "Rendering", "Scene", "ScenesDataset", "boundaries", "random_scene", "render"]
