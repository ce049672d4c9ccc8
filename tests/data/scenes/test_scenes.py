"""The built-in data set: labels against geometry worked by hand, identity of scenes, difficulty, cache."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dtme_search.config import ScenesConfig
from dtme_search.data.base import Sample
from dtme_search.data.scenes import CLASSES, Rendering, Scene, ScenesDataset, boundaries, random_scene, render
from dtme_search.data.scenes import dataset as dataset_module
from dtme_search.data.scenes.rooms import Label
from dtme_search.data.scenes.scene import Camera, Light, Material, Part, Photo, Room, Shape, Thing

SIZE = (32, 48)
TASKS = ("semseg", "depth", "normals", "edge")
BALL, WHITE = 5, (0.8, 0.8, 0.8)


def make_dataset(cache_dir, size=SIZE, **config):
    return ScenesDataset(ScenesConfig(**{"num_train": 6, "num_test": 3} | config), size, cache_dir)


def assert_equal(first: Sample, second: Sample):
    np.testing.assert_array_equal(first.image, second.image)
    assert first.labels.keys() == second.labels.keys() == first.valid.keys()
    for task in first.labels:
        np.testing.assert_array_equal(first.labels[task], second.labels[task])


@pytest.fixture(scope="module")
def many() -> list[tuple[Scene, Rendering]]:
    """A hundred scenes, rendered small."""
    scenes = [random_scene(np.random.default_rng([7, i])) for i in range(100)]
    return [(scene, render(scene, SIZE, np.random.default_rng(i))) for i, scene in enumerate(scenes)]


# -- geometry worked by hand -----------------------------------------------------------------------


def plain(colour=WHITE) -> Material:
    return Material(colour, colour, np.zeros((5, 3), np.float32), np.zeros(5, np.float32))


def hand_made(*things: Thing, lights: tuple[Light, ...] = ()) -> Scene:
    """A room of 6 x 8 x 3 m seen from (3, 3, 1.5) towards high y; half the field of view is 45°."""
    wall = plain()
    return Scene(
        room=Room((6.0, 8.0, 3.0), (0, 0, 0, 0, 1, 2), (wall,) * 6),
        things=things,
        lights=lights,
        ambient=(0.2, 0.2, 0.2),
        camera=Camera((3.0, 3.0, 1.5), np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]]), 1.0),
        photo=Photo(brightness=0.3, gains=(1.0, 1.0, 1.0), vignetting=0.0, noise=0.0, gamma=0.45),
    )


def look(*things: Thing, lights: tuple[Light, ...] = (), size=(41, 41)) -> Rendering:
    return render(hand_made(*things, lights=lights), size, np.random.default_rng(0))


def one(shape: Shape, position, half, yaw=0.0) -> Thing:
    return Thing(BALL, position, yaw, (Part((0.0, 0.0, 0.0), half, plain(), shape),))


def test_empty_room_has_the_depth_and_normals_of_its_planes():
    seen = look()
    middle = 20
    # The far wall is 5 m away and across the axis: its depth is the same everywhere.
    wall = seen.instances == 3
    np.testing.assert_allclose(seen.depth[wall], 5.0, rtol=1e-6)
    np.testing.assert_allclose(seen.normals[wall], np.broadcast_to([0, 0, -1], (wall.sum(), 3)), atol=1e-6)
    # The outermost pixels look aside by tan = 40/41, at planes 3 m to the sides and 1.5 m below and above.
    for pixel, instance, label, normal, aside in [
        ((middle, 0), 0, 0, [1, 0, 0], 3.0),
        ((middle, 40), 1, 0, [-1, 0, 0], 3.0),
        ((40, middle), 4, 1, [0, -1, 0], 1.5),
        ((0, middle), 5, 2, [0, 1, 0], 1.5),
    ]:
        assert (seen.instances[pixel], seen.classes[pixel]) == (instance, label)
        assert seen.depth[pixel] == pytest.approx(aside * 41 / 40, rel=1e-6)
        np.testing.assert_allclose(seen.normals[pixel], normal, atol=1e-6)
    # Corners between walls are edges, although the class is the same.
    assert boundaries(seen.instances)[middle].sum() == 2


@pytest.mark.parametrize(
    ("shape", "half", "depth"),
    [
        (Shape.BOX, (0.5, 0.25, 0.5), 1.75),
        (Shape.CYLINDER, (0.5, 0.5, 0.5), 1.5),
        (Shape.ELLIPSOID, (0.3, 0.6, 0.3), 1.4),
        (Shape.CYLINDER, (0.06, 0.01, 0.5), 1.99),
    ],
)
def test_middle_ray_meets_the_front_of_a_shape(shape, half, depth):
    seen = look(one(shape, (3.0, 5.0, 1.5), half))
    assert seen.classes[20, 20] == BALL
    assert seen.instances[20, 20] == 6
    assert seen.depth[20, 20] == pytest.approx(depth, abs=1e-5)
    np.testing.assert_allclose(seen.normals[20, 20], [0, 0, -1], atol=1e-5)


def test_turned_box_shows_two_faces_at_45_degrees():
    seen = look(one(Shape.BOX, (3.0, 5.0, 1.5), (0.5, 0.5, 0.5), yaw=np.pi / 4))
    assert seen.depth[20, 20] == pytest.approx(2 - np.sqrt(0.5), abs=1e-5)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(seen.normals[20, 17], [-half, 0, -half], atol=1e-6)
    np.testing.assert_allclose(seen.normals[20, 23], [half, 0, -half], atol=1e-6)


def test_ball_satisfies_its_equation_everywhere():
    centre, radius = np.array([0.2, 0.1, 1.8]), 0.6
    thing = one(Shape.ELLIPSOID, (3.0 + centre[0], 3.0 + centre[2], 1.5 - centre[1]), (radius,) * 3)
    seen = look(thing, size=(60, 60))
    on = seen.classes == BALL
    points = back_project(seen, hand_made().camera)[on]
    np.testing.assert_allclose(np.linalg.norm(points - centre, axis=1), radius, atol=1e-4)
    np.testing.assert_allclose(seen.normals[on], (points - centre) / radius, atol=1e-3)
    assert on.sum() > 300


def test_cylinder_has_a_flat_cap_and_a_round_side():
    seen = look(one(Shape.CYLINDER, (3.0, 4.5, 0.4), (0.5, 0.5, 0.4)), size=(61, 61))
    normals = seen.normals[seen.classes == BALL]
    is_cap = np.isclose(normals, [0, -1, 0], atol=1e-5).all(axis=1)
    assert is_cap.sum() > 20
    assert (~is_cap).sum() > 20
    np.testing.assert_allclose(normals[~is_cap, 1], 0, atol=1e-5)


def test_nearer_things_hide_others_and_light_stops_at_them():
    screen = one(Shape.BOX, (3.0, 4.0, 1.5), (0.4, 0.05, 0.4))
    hidden = one(Shape.ELLIPSOID, (3.0, 5.0, 1.5), (0.3, 0.3, 0.3))
    assert 7 not in look(screen, hidden).instances
    # A light behind the camera and above: the shadow of the screen falls low on the far wall.
    lamp = Light((3.0, 2.0, 2.8), (9.0, 9.0, 9.0), casts_shadows=True)
    dark, bright = look(screen, lights=(lamp,)), look(screen, lights=(replace(lamp, casts_shadows=False),))
    ratio = dark.image.astype(float).mean(axis=2) / bright.image.astype(float).mean(axis=2)
    assert ratio.max() - ratio.min() > 0.3
    assert np.array_equal(dark.depth, bright.depth)


def test_intrinsics_give_back_the_projection():
    matrix = hand_made().camera.intrinsics((40, 60))
    # 45° to the right at depth 1 is the right rim of the image, half a pixel beyond the last centre.
    assert (matrix @ [1.0, 0.0, 1.0])[:2] == pytest.approx([59.5, 19.5])


def test_edges_are_the_pixels_before_a_change(many):
    for _, seen in many[:5]:
        ids, (height, width) = seen.instances, SIZE
        expected = [
            [
                (x + 1 < width and ids[y, x] != ids[y, x + 1])
                or (y + 1 < height and ids[y, x] != ids[y + 1, x])
                for x in range(width)
            ]
            for y in range(height)
        ]
        np.testing.assert_array_equal(boundaries(ids), np.array(expected, np.uint8))


# -- labels of random scenes -----------------------------------------------------------------------


def back_project(seen: Rendering, camera: Camera) -> np.ndarray:
    height, width = seen.depth.shape
    v, u = np.mgrid[:height, :width]
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(camera.intrinsics((height, width))).T
    return seen.depth[..., None] * rays


def test_normals_fit_the_back_projected_depth(many):
    """Neighbours on one flat face differ by a vector across its normal; furniture has parallel faces too."""
    fitting = []
    for scene, seen in many[:40]:
        points = back_project(seen, scene.camera)
        for a, b in (
            ((slice(None), slice(1, None)), (slice(None), slice(-1))),
            ((slice(1, None),), (slice(-1),)),
        ):
            same = (seen.instances[a] == seen.instances[b]) & (
                (seen.normals[a] * seen.normals[b]).sum(-1) > 1 - 1e-6
            )
            off = np.abs(((points[a] - points[b]) * seen.normals[a]).sum(-1))
            fits = off < 1e-5 * seen.depth[a] ** 2 + 2e-5
            on_room = seen.instances[a] < 6
            assert fits[same & on_room].all()
            fitting.append(fits[same & ~on_room])
    assert np.concatenate(fitting).mean() > 0.9


def test_labels_are_in_range_and_face_the_camera(many):
    for scene, seen in many:
        assert seen.classes.max() < len(CLASSES)
        assert 0.2 < seen.depth.min() <= seen.depth.max() < np.hypot(9.0, 9.0) + 3.4
        np.testing.assert_allclose(np.linalg.norm(seen.normals, axis=-1), 1, atol=1e-5)
        assert ((back_project(seen, scene.camera) * seen.normals).sum(-1) < 1e-4).all()
        # One class per instance.
        assert len(np.unique(seen.instances)) == len(np.unique(seen.instances * 16 + seen.classes))


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 96), (50, 30)])
def test_any_size_is_served_in_the_promised_types(tmp_path, size):
    sample = make_dataset(tmp_path, size).read("test-00002", TASKS)
    described = {task: (label.dtype, label.shape) for task, label in sample.labels.items()}
    assert described == {
        "semseg": (np.uint8, size),
        "depth": (np.float32, size),
        "normals": (np.float32, (*size, 3)),
        "edge": (np.uint8, size),
    }
    assert (sample.image.dtype, sample.image.shape) == (np.uint8, (*size, 3))
    assert all(
        valid.dtype == np.bool_ and valid.shape == size and valid.all() for valid in sample.valid.values()
    )


def test_other_size_shows_the_same_room_to_the_same_camera(tmp_path):
    """Three times the size: the middle one of nine pixels has the ray of the small image's pixel."""
    small = make_dataset(tmp_path, (32, 48)).read("train-00004", TASKS)
    large = make_dataset(tmp_path, (96, 144)).read("train-00004", TASKS)
    # A ray along the very rim of a thing may fall to either side.
    same = small.labels["semseg"] == large.labels["semseg"][1::3, 1::3]
    assert same.mean() > 0.998
    near = np.isclose(small.labels["depth"], large.labels["depth"][1::3, 1::3], rtol=1e-4)
    assert near.mean() > 0.998
    shrunk = large.image.reshape(32, 3, 48, 3, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - small.image).mean() < 12


# -- difficulty ------------------------------------------------------------------------------------


def test_every_class_is_seen_often(many):
    share = np.mean(
        [[(seen.classes == label).mean() > 0.005 for label in range(len(CLASSES))] for _, seen in many], 0
    )
    assert dict(zip(CLASSES, share >= 0.15, strict=True)) == dict.fromkeys(CLASSES, True)
    assert np.median([len(np.unique(seen.classes)) for _, seen in many]) >= 5


def test_scenes_differ_in_depth_and_pictures_are_neither_dark_nor_empty(many):
    medians = [np.median(seen.depth) for _, seen in many]
    assert np.quantile(medians, 0.9) > 1.7 * np.quantile(medians, 0.1)
    for _, seen in many:
        assert 50 < seen.image.mean() < 205
        assert seen.image.std() > 6
        assert boundaries(seen.instances).any()


def test_colour_alone_does_not_solve_semseg(many):
    """Best class per colour (512 bins, fitted on other scenes) hardly beats calling everything a wall."""
    colours = np.stack([seen.image for _, seen in many]).astype(int) // 32 @ [64, 8, 1]
    classes = np.stack([seen.classes for _, seen in many])
    counts = np.zeros((512, len(CLASSES)))
    np.add.at(counts, (colours[:70], classes[:70]), 1)
    accuracy = (counts.argmax(axis=1)[colours[70:]] == classes[70:]).mean()
    assert accuracy < (classes[70:] == 0).mean() + 0.05


# -- identity --------------------------------------------------------------------------------------


def test_scene_depends_on_seed_split_and_number_only(tmp_path):
    sample = make_dataset(tmp_path / "a").read("train-00003", TASKS)
    assert_equal(sample, make_dataset(tmp_path / "b").read("train-00003", TASKS))
    assert_equal(sample, make_dataset(tmp_path / "c", num_train=40, num_test=9).read("train-00003", TASKS))
    others = [
        make_dataset(tmp_path / "a", num_test=4).read("test-00003", ()),
        make_dataset(tmp_path / "a").read("train-00004", ()),
        make_dataset(tmp_path / "a", seed=1).read("train-00003", ()),
    ]
    assert not any(np.array_equal(sample.image, other.image) for other in others)


def test_ids_begin_with_those_of_a_smaller_set(tmp_path):
    small, large = make_dataset(tmp_path), make_dataset(tmp_path, num_train=50, num_test=10)
    assert small.ids("test") == ("test-00000", "test-00001", "test-00002")
    assert large.ids("train")[:6] == small.ids("train")
    assert not set(large.ids("train")) & set(large.ids("test"))
    assert small.groups(["train-00002"]) is None


def test_fingerprint_follows_the_content(tmp_path):
    sets = [
        make_dataset(tmp_path),
        make_dataset(tmp_path, (48, 32)),
        make_dataset(tmp_path, seed=1),
        make_dataset(tmp_path, num_train=7),
    ]
    assert len({data.fingerprint for data in sets}) == 4
    assert make_dataset(tmp_path / "elsewhere").fingerprint == sets[0].fingerprint


def test_tasks_are_described_in_order(tmp_path):
    tasks = make_dataset(tmp_path).tasks
    assert tuple(tasks) == (*TASKS, "room")
    assert tasks["semseg"].class_names == CLASSES
    assert [spec.derived_from for spec in tasks.values()] == [None] * 4 + ["semseg"]


def test_the_type_of_a_room_is_what_most_of_the_image_shows(tmp_path):
    data, found = make_dataset(tmp_path, num_train=32), []
    for sample_id in data.ids("train"):
        sample = data.read(sample_id, ("room", "semseg"))
        shown = sample.labels["semseg"]
        shares = {
            "living room": (shown == Label.SOFA).mean(),
            "dining room": ((shown == Label.TABLE) | (shown == Label.CHAIR)).mean(),
            "store room": (shown == Label.CABINET).mean(),
            "hall": 0.08,
        }
        found.append(data.tasks["room"].class_names[sample.labels["room"].item()])
        assert found[-1] == max(shares, key=lambda kind: shares[kind])
        assert sample.valid["room"].tolist() == [[True]]
    assert set(found) == set(data.tasks["room"].class_names)
    assert max(map(found.count, found)) <= len(found) / 2


def test_only_the_asked_labels_are_given(tmp_path):
    data = make_dataset(tmp_path)
    for _ in range(2):  # rendered, then from the cache
        sample = data.read("train-00000", ("edge", "depth"))
        assert tuple(sample.labels) == tuple(sample.valid) == ("edge", "depth")


def test_unknown_ids_and_tasks_are_refused(tmp_path):
    data = make_dataset(tmp_path)
    with pytest.raises(ValueError, match="no sample 'train-00006'"):
        data.read("train-00006", ())
    with pytest.raises(ValueError, match=r"no task 'dept'\. Did you mean 'depth'"):
        data.read("train-00000", ("dept",))
    assert not any(tmp_path.iterdir())


# -- cache -----------------------------------------------------------------------------------------


def stored(cache_dir: Path) -> list[Path]:
    return sorted(path for path in cache_dir.rglob("*") if path.is_file())


def test_second_process_renders_nothing(tmp_path, monkeypatch):
    sample = make_dataset(tmp_path).read("train-00001", TASKS)
    monkeypatch.setattr(dataset_module, "render", lambda *_: pytest.fail("rendered again"))
    assert_equal(sample, make_dataset(tmp_path, num_train=99).read("train-00001", TASKS))


def cut_off(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_one_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [cut_off, flip_one_bit, lambda _: b"", lambda _: b"not a zip file"])
def test_broken_file_is_rendered_again(tmp_path, damage, caplog):
    data = make_dataset(tmp_path)
    sample = data.read("train-00000", TASKS)
    (path,) = stored(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING):
        assert_equal(sample, data.read("train-00000", TASKS))
    assert path.name in caplog.text
    assert path.read_bytes() == whole


def test_concurrent_readers_agree_and_leave_nothing_behind(tmp_path):
    sets = [make_dataset(tmp_path) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        samples = list(pool.map(lambda data: data.read("train-00000", TASKS), sets))
    for sample in samples[1:]:
        assert_equal(samples[0], sample)
    assert [path.name for path in stored(tmp_path)] == ["train-00000.npz"]


def test_unwritable_cache_costs_time_only(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    data = make_dataset(blocked)
    with caplog.at_level(logging.WARNING):
        samples = [data.read(sample_id, TASKS) for sample_id in data.ids("test")]
    assert_equal(samples[0], make_dataset(tmp_path / "cache").read("test-00000", TASKS))
    assert len(caplog.records) == 1


def test_cache_folder_is_the_users_choice(tmp_path, monkeypatch):
    monkeypatch.setenv("DTME_CACHE", str(tmp_path / "mine"))
    make_dataset(None).read("train-00000", ())
    assert len(stored(tmp_path / "mine")) == 1
