"""Photographs are read upright in 8 bits, labels as the numbers they store, or a line says why not."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dtme_search
from dtme_search.data import read_image
from dtme_search.data.reading.files import read_class_ids, read_levels, read_mask
from dtme_search.data.reading.pictures import read_colours, read_stored
from dtme_search.errors import DataError

SIZE = (12, 20)
RAMP = np.add.outer(10 * np.arange(SIZE[0]), 4 * np.arange(SIZE[1])).astype(np.uint8)
PHOTO = np.stack([RAMP, RAMP // 2, 255 - RAMP], -1)
NUMBERS = (np.indices(SIZE)[0] // 3).astype(np.uint8)  # 0 to 3
UNDONE = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
    7: "TRANSVERSE", 8: "ROTATE_270",
}  # fmt: skip
"""Orientation tag -> what turns an upright picture into the stored one."""


def tagged(tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    return exif


def write_png(path, samples, bits, colour_type):
    """A png of any depth; ``samples`` (H, W) or (H, W, C)."""
    rows = samples.reshape(len(samples), -1).astype(int)
    if bits == 16:
        packed = [row.astype(">u2").tobytes() for row in rows]
    else:
        binary = ["".join(f"{value:0{bits}b}" for value in row) for row in rows]
        packed = [
            bytes(int(line[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(line), 8)) for line in binary
        ]

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in packed))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("tag", UNDONE)
@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_every_orientation_is_undone_in_every_format(tmp_path, tag, ending):
    path = tmp_path / f"photo.{ending}"
    stored = Image.fromarray(PHOTO).transpose(Image.Transpose[UNDONE[tag]])
    stored.save(path, exif=tagged(tag), **({"lossless": True} if ending == "webp" else {}))
    np.testing.assert_array_equal(read_image(path), PHOTO)


@pytest.mark.parametrize("tag", [0, 1, 9])
def test_a_tag_that_says_upright_or_nothing_changes_nothing(tmp_path, tag):
    Image.fromarray(PHOTO).save(tmp_path / "a.png", exif=tagged(tag))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), PHOTO)


def test_photographs_of_sixteen_bits_keep_their_range(tmp_path):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([RAMP] * 3, -1))
    write_png(tmp_path / "colour.png", PHOTO.astype(np.uint16) * 257, 16, 2)
    np.testing.assert_array_equal(read_image(tmp_path / "colour.png"), PHOTO)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "YCbCr", "1"])
def test_photographs_of_other_modes_look_as_they_look(tmp_path, mode):
    path = tmp_path / f"a.{'tif' if mode in ('CMYK', 'YCbCr') else 'png'}"
    image = Image.fromarray(PHOTO).convert(mode)
    image.save(path)
    assert read_image(path).shape == (*SIZE, 3)
    np.testing.assert_array_equal(read_image(path), np.asarray(image.convert("RGB")))


def test_a_palette_with_transparency_warns_of_nothing(tmp_path):
    image = Image.fromarray(PHOTO).quantize(8)
    image.save(tmp_path / "a.png", transparency=bytes(range(8)))
    assert read_image(tmp_path / "a.png").shape == (*SIZE, 3)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_a_photograph_whose_white_is_unknown_is_refused(tmp_path, dtype):
    Image.fromarray(RAMP.astype(dtype)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: a photograph must have 8 or 16 bits per channel, got mode"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("ending", ["gif", "tif", "png", "webp"])
def test_several_pictures_in_a_file_are_refused(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    frames = [Image.fromarray(PHOTO), Image.fromarray(255 - PHOTO)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    for read in (read_image, read_stored):
        with pytest.raises(DataError, match="must hold one picture, got 2"):
            read(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "the file is missing"),
        (b"no picture", r"not an image\)\. Replace it"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "cannot be read"),
    ],
)
def test_what_is_no_picture_is_one_line(tmp_path, content, reason):
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    for read in (read_image, read_stored):
        with pytest.raises(DataError, match=rf"x\.png: .*{reason}") as refused:
            read(path)
        assert "\n" not in str(refused.value)


def test_a_picture_of_a_phone_that_cannot_be_decoded_says_what_to_do(tmp_path):
    (tmp_path / "x.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(DataError, match="Convert it to jpg or png"):
        read_image(tmp_path / "x.HEIC")


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_of_any_depth_gives_the_numbers_that_are_stored(tmp_path, bits):
    numbers = NUMBERS.clip(max=2**bits - 1)
    write_png(tmp_path / "a.png", numbers, bits, 0)
    np.testing.assert_array_equal(read_class_ids(tmp_path / "a.png"), numbers)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_gives_its_indices(tmp_path, bits):
    image = Image.fromarray(NUMBERS.clip(max=2**bits - 1)).convert("P")
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.save(tmp_path / "a.png", bits=bits)
    np.testing.assert_array_equal(read_class_ids(tmp_path / "a.png"), NUMBERS.clip(max=2**bits - 1))


def test_negative_numbers_of_a_tiff_stay_negative(tmp_path):
    Image.fromarray(NUMBERS.astype(np.int32) - 1).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_class_ids(tmp_path / "a.tif"), NUMBERS.astype(int) - 1)


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("a.jpg", {}, "JPEG"),
        ("a.jp2", {}, "JPEG2000"),
        ("a.webp", {"quality": 80}, "WEBP"),
        ("a.pgm", {}, "PPM"),
        ("a.tif", {"compression": "jpeg"}, "TIFF compressed as jpeg"),
    ],
)
def test_labels_that_are_lossy_or_scaled_are_refused(tmp_path, name, options, found):
    Image.fromarray(NUMBERS * 60).save(tmp_path / name, **options)
    with pytest.raises(DataError, match=rf"{name}: a label must be stored without loss .* got {found}"):
        read_stored(tmp_path / name)


def test_the_ending_does_not_hide_the_loss(tmp_path):
    Image.fromarray(NUMBERS * 60).save(tmp_path / "a.png", format="JPEG")
    with pytest.raises(DataError, match="without loss"):
        read_colours(tmp_path / "a.png", "plants")


def test_a_label_that_is_stored_turned_is_refused(tmp_path):
    Image.fromarray(NUMBERS).save(tmp_path / "a.png", exif=tagged(6))
    with pytest.raises(DataError, match="must be stored upright, got the orientation tag 6"):
        read_stored(tmp_path / "a.png")


def test_white_as_zero_is_refused(tmp_path):
    Image.fromarray(NUMBERS).save(tmp_path / "a.tif", tiffinfo={262: 0})
    with pytest.raises(DataError, match="got white as 0"):
        read_stored(tmp_path / "a.tif")


def test_sixteen_bits_in_colour_are_refused_for_labels(tmp_path):
    write_png(tmp_path / "a.png", PHOTO.astype(np.uint16) * 257 + 1, 16, 2)
    with pytest.raises(DataError, match="of 16 bits"):
        read_colours(tmp_path / "a.png", "plants")
    with pytest.raises(DataError, match="must have 8 bits each, got 16"):
        read_stored(tmp_path / "a.png")


def test_grey_is_a_colour(tmp_path):
    """What makes files smaller stores a picture of black and white alone as grey of one bit."""
    write_png(tmp_path / "a.png", NUMBERS > 1, 1, 0)
    np.testing.assert_array_equal(
        read_colours(tmp_path / "a.png", "p")[..., 0], np.where(NUMBERS > 1, 255, 0)
    )


@pytest.mark.parametrize("read", [read_mask, lambda path: read_levels(path, "saliency", 8)])
def test_few_bits_are_named_where_numbers_mean_shares(tmp_path, read):
    write_png(tmp_path / "a.png", NUMBERS, 2, 0)
    with pytest.raises(DataError, match=r"got (2 bits|mode L;2)"):
        read(tmp_path / "a.png")


def test_no_other_file_opens_pictures():
    package = Path(dtme_search.__file__).parent
    opening = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"Image\.open|imread|exif_transpose", path.read_text(encoding="utf-8"))
    ]
    assert opening == ["data/reading/pictures.py"]
