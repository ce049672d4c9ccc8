"""The size of the tensors where a config of own data leaves it open."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_folder import write_own
from PIL import Image
from tiny import TINY, with_paths

from dtme_search.config import RunConfig, load_run_config
from dtme_search.data.fitting import MOST_TOKENS, suitable_size
from dtme_search.models import patch_size_of
from dtme_search.training.image_size import with_image_size

SIDE = st.integers(1, 6000)


@given(SIDE, SIDE, st.sampled_from([8, 14, 16, 32]), st.sampled_from([1, 2, 4]))
def test_any_image_gets_multiples_of_its_shape_within_the_bound(height, width, patch, patches):
    step = patch * patches
    size = suitable_size((height, width), patch, patches)
    assert all(side >= step and side % step == 0 for side in size)
    least = step * step  # one step each, or as long as the shape asks for
    assert size[0] * size[1] <= max(MOST_TOKENS * patch**2, least * max(size) // step)
    for side, usual in zip(size, (height, width), strict=True):
        assert side <= max(step, usual + step / 2)


def config_of(folder, **changes) -> RunConfig:
    data = {"name": "folder", "folder": {"description": str(write_own(folder))}}
    values = {**TINY, "data": data, "tasks": {"plants": {}, "light": {}}}
    return RunConfig.model_validate(with_paths(values, changes))


def resized(folder, size: tuple[int, int]) -> None:
    for path in (folder / "orchard" / "photos").iterdir():
        with Image.open(path) as image:
            image.resize(size[::-1]).save(path)


@pytest.mark.parametrize(
    ("decoder", "expected"), [("simple", (96, 136)), ("invpt", (96, 128))], ids=["simple", "invpt"]
)
def test_the_size_suits_images_patches_and_decoder_and_is_told(tmp_path, caplog, decoder, expected):
    config = config_of(tmp_path, model__decoder=decoder)
    resized(tmp_path, (98, 140))
    assert patch_size_of(config.model) == 8
    assert with_image_size(config).data.image_size == expected
    (line,) = caplog.messages
    assert "{}x{} is used, which suits images of 98x140 in patches of 8".format(*expected) in line
    assert with_image_size(with_image_size(config)) == with_image_size(config)


def test_pictures_on_their_side_are_taken_upright(tmp_path):
    config = config_of(tmp_path)
    for path in (tmp_path / "orchard" / "photos").iterdir():
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (48, 32)).save(path, exif=exif)
    assert with_image_size(config).data.image_size == (48, 32)


def test_what_was_set_stays_and_other_overrides_leave_it_open(tmp_path):
    config = config_of(tmp_path)
    assert with_image_size(config_of(tmp_path, data__image_size=[64, 96])).data.image_size == (64, 96)
    scenes = RunConfig.model_validate({"data": {"name": "scenes"}})
    assert with_image_size(scenes) is scenes
    file = tmp_path / "run.yaml"
    file.write_text(config.model_dump_json(exclude_unset=True))
    other = load_run_config(str(file), ("train.lr=0.5",))
    assert with_image_size(other).data.image_size == (32, 48)
    set_here = load_run_config(str(file), ("data.image_size=[64, 96]",))
    assert with_image_size(set_here).data.image_size == (64, 96)
