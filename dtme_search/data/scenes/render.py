"""Image and labels of a scene. Everything here is ours; it follows no paper.

Labels are analytic: each is what the one ray through the centre of its pixel hits, valid everywhere.

Shapes: H, W image; N rays. Vectors are stored (3, N), float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dtme_search.data.scenes.raycast import Floats, Integers, Solids, Surface
from dtme_search.data.scenes.scene import Camera, Material, Photo, Scene

_SHADOW_BIAS = np.float32(1e-3)
"""Metres above a surface at which shadows are looked up, so that it does not shadow itself."""


@dataclass(frozen=True)
class Rendering:
    """An image and its labels.

    Attributes:
        image: RGB, uint8, shape (H, W, 3).
        classes: Label of the surface, uint8, shape (H, W).
        instances: 0 to 5 for the faces of the room, then one number per thing, int32, shape (H, W).
        depth: Distance along the optical axis in metres, float32, shape (H, W).
        normals: Unit normals in the camera frame (x right, y down, z forward), towards the camera,
            float32, shape (H, W, 3).
    """

    image: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.int32]
    depth: Floats
    normals: Floats


def render(scene: Scene, image_size: tuple[int, int], noise: np.random.Generator) -> Rendering:
    """Render a scene at any size (H, W); ``noise`` drives only the sensor.

    For anti-aliasing the colour of a pixel is half that of its centre plus an eighth of each of its corners:
    five samples for two rays, because neighbours share corners.
    """
    height, width = image_size
    solids = Solids(scene)
    origin, direction = _rays(scene.camera, image_size)
    depth, part = solids.cast(origin, direction)
    surface = solids.surface(origin, direction, depth, part)
    footprint = depth * np.float32(2 * scene.camera.half_width / width)
    light = _shade(scene, solids, surface, _reflectance(solids.materials, surface, footprint))

    centres = slice(0, height * width)
    corners = light[:, height * width :].reshape(3, height + 1, width + 1)
    around = corners[:, 1:, 1:] + corners[:, 1:, :-1] + corners[:, :-1, 1:] + corners[:, :-1, :-1]
    smooth = np.float32(0.5) * light[:, centres].reshape(3, height, width) + np.float32(0.125) * around
    normals = scene.camera.rotation.astype(np.float32) @ surface.normal[:, centres]
    instances = solids.instances[part[centres]].reshape(image_size)
    return Rendering(
        image=_expose(scene.photo, smooth, noise),
        classes=solids.labels[instances],
        instances=instances,
        depth=depth[centres].reshape(image_size),
        normals=np.ascontiguousarray(normals.T).reshape(height, width, 3),
    )


def boundaries(instances: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Mark the pixels (H, W) whose right or lower neighbour is another instance: lines one pixel wide.

    Example:
        >>> boundaries(np.array([[0, 0, 1], [0, 0, 1], [2, 2, 1]], dtype=np.int32)).tolist()
        [[0, 1, 0], [1, 1, 0], [0, 1, 0]]
    """
    edge = np.zeros(instances.shape, dtype=np.uint8)
    edge[:, :-1] |= instances[:, :-1] != instances[:, 1:]
    edge[:-1] |= instances[:-1] != instances[1:]
    return edge


def _rays(camera: Camera, image_size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Start (3, 1) and directions (3, N) through pixel centres, then corners, one unit along the axis."""
    height, width = image_size
    pixel = 2 * camera.half_width / width
    x = (np.arange(2 * width + 1) - width) * (pixel / 2)
    y = (np.arange(2 * height + 1) - height) * (pixel / 2)
    grids = [np.meshgrid(x[first::2], y[first::2]) for first in (1, 0)]
    right, down = (np.concatenate([grid[i].ravel() for grid in grids]) for i in (0, 1))
    direction = camera.rotation.T @ np.stack([right, down, np.ones_like(right)])
    return np.array(camera.position, np.float32)[:, None], direction.astype(np.float32)


def _reflectance(materials: tuple[Material, ...], surface: Surface, footprint: Floats) -> Floats:
    """Linear RGB (3, N); ``footprint`` (N,) is the width of a pixel in metres; finer waves fade out."""
    colour = np.empty_like(surface.point)
    kinds = list({id(material): material for material in materials}.values())
    number = {id(material): i for i, material in enumerate(kinds)}
    of_part: Integers = np.array([number[id(material)] for material in materials])
    of_ray = of_part.take(surface.part)
    for i, material in enumerate(kinds):
        rays = np.flatnonzero(of_ray == i)
        share = _pattern(material, surface.local.take(rays, axis=1), footprint[rays])
        base, second = np.array([material.base, material.second], np.float32)[:, :, None]
        colour[:, rays] = base + share * (second - base)
    return colour


def _pattern(material: Material, point: Floats, footprint: Floats) -> Floats:
    """Share of the second colour, 0 to 1, shape (N,), at points (3, N) of the thing's frame."""
    phase = material.waves @ point + material.phases[:, None]
    fineness = np.sqrt((material.waves**2).sum(axis=1, keepdims=True)) * footprint
    waves = np.exp(-((fineness / np.float32(2.5)) ** 2))
    blotches = (waves[2:] * np.sin(phase[2:])).sum(axis=0) / 2
    first, second = waves[:2] * np.sin(phase[:2] + np.float32(material.warp) * blotches)
    mixed = material.stripes * first + material.checks * first * second + material.blotches * blotches
    share: Floats = 0.5 + 0.5 * np.tanh(np.float32(material.sharpness) * mixed)
    return share


def _shade(scene: Scene, solids: Solids, surface: Surface, reflectance: Floats) -> Floats:
    """Light (3, N) that leaves the surfaces: diffuse, from ambience and lights, plus emission."""
    # More ambient light from above than from below, so that faces differ even where no light reaches.
    openness = 0.75 + 0.25 * surface.normal[2] + 0.05 * surface.normal[0]
    received = np.array(scene.ambient, np.float32)[:, None] * openness
    start = surface.point + surface.normal * _SHADOW_BIAS
    for light in scene.lights:
        position = np.array(light.position, np.float32)[:, None]
        x, y, z = towards = position - start
        squared = x * x + y * y + z * z
        facing = np.einsum("cn,cn->n", towards, surface.normal) / np.sqrt(squared)
        lit = np.flatnonzero(facing > 0)
        if light.casts_shadows:
            lit = lit[~solids.in_shadow(position, start.take(lit, axis=1))]
        # The fall-off is softened so that surfaces next to a light do not outshine everything else.
        strength = facing[lit] / (0.5 + squared[lit])
        received[:, lit] += np.array(light.colour, np.float32)[:, None] * strength
    emission = np.array([material.emission for material in solids.materials], np.float32)
    leaving: Floats = reflectance * (received + emission.take(surface.part))
    return leaving


def _expose(photo: Photo, light: Floats, noise: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Picture (H, W, 3) of linear light (3, H, W); the exposure follows its mean, as cameras do."""
    _, height, width = light.shape
    y, x = (np.linspace(-1, 1, size, dtype=np.float32) for size in (height, width))
    falloff = 1 - np.float32(photo.vignetting / 2) * (x * x + y[:, None] * y[:, None])
    gains = np.array(photo.gains, np.float32) * np.float32(photo.brightness / max(float(light.mean()), 1e-9))
    exposed = light * gains[:, None, None] * falloff
    # Highlights approach white instead of being cut off.
    soft = exposed / np.sqrt(1 + exposed * exposed)
    grain = np.float32(photo.noise) * np.sqrt(np.float32(0.05) + soft)
    noisy = soft + grain * noise.standard_normal(light.shape, dtype=np.float32)
    picture = 255 * np.clip(noisy, 0, 1) ** np.float32(photo.gamma)
    return np.ascontiguousarray(np.rint(picture).astype(np.uint8).transpose(1, 2, 0))
