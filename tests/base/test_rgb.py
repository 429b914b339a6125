"""to_rgb: what each mode of image becomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from ex2.base.rgb import to_rgb


def test_rgb_image_is_passed_through() -> None:
    image = Image.new("RGB", (3, 2), (1, 2, 3))
    assert to_rgb(image) is image


def test_transparent_pixels_become_white_and_half_transparent_ones_half_white() -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    result = to_rgb(image)
    assert result.mode == "RGB"
    assert [result.getpixel((x, 0)) for x in range(3)] == [(255, 255, 255), (255, 0, 0), (127, 127, 127)]


@pytest.mark.parametrize("mode", ["LA", "PA"])
def test_other_modes_with_alpha_are_laid_on_white(mode: str) -> None:
    image = Image.new(mode, (1, 1), (0, 0))
    assert to_rgb(image).getpixel((0, 0)) == (255, 255, 255)


def test_palette_with_and_without_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert [to_rgb(image).getpixel((x, 0)) for x in range(2)] == [(10, 20, 30), (40, 50, 60)]
    image.info["transparency"] = 0
    assert [to_rgb(image).getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (40, 50, 60)]


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "HSV", "LAB"])
def test_size_stays_in_every_mode(mode: str) -> None:
    result = to_rgb(Image.new(mode, (5, 7)))
    assert (result.mode, result.size) == ("RGB", (5, 7))


def test_grayscale_of_16_bits_is_scaled_not_cut() -> None:
    image = Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16))
    assert image.mode == "I;16"
    assert np.asarray(to_rgb(image))[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]


def test_exif_orientation_is_undone(tmp_path: Path) -> None:
    upright = Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))
    for orientation, stored in {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }.items():
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        path = tmp_path / f"{orientation}.png"
        stored.save(path, exif=exif)
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(upright)), orientation


def greys(values: list[float], kind: type[np.generic]) -> list[int]:
    rgb = np.asarray(to_rgb(Image.fromarray(np.array([values], dtype=kind))))
    assert np.array_equal(rgb[..., 0], rgb[..., 2])
    return rgb[0, :, 0].tolist()


def test_greys_of_32_bits_are_read_by_the_scale_they_were_written_in() -> None:
    assert greys([0, 0.5, 1], np.float32) == [0, 128, 255]
    assert greys([-0.01, 0.4, 1.01], np.float32) == [0, 102, 255]  # as resampling leaves them
    assert greys([0, 100.25, 255], np.float32) == [0, 100, 255]
    assert greys([0, 25_700, 65_535], np.float32) == [0, 100, 255]
    assert greys([0, 100, 255], np.int32) == [0, 100, 255]
    assert greys([0, 25_700, 65_535], np.int32) == [0, 100, 255]
    assert greys([0, 2**30, 2**31 - 1], np.int32) == [0, 128, 255]


@pytest.mark.parametrize("values", [[0, 3.5], [-1, 1], [0, np.nan], [0, np.inf], [0, 1e6]])
def test_floats_of_no_usual_scale_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"which is no usual scale: save it with 8 or 16 bits"):
        greys(values, np.float32)


@pytest.mark.parametrize(
    ("kind", "high"),
    [(np.int32, 1), *((kind, high) for kind in (np.int32, np.float32) for high in (10, 1023, 4095, 70_000, 2**24))],
)
def test_greys_on_the_scale_of_a_sensor_or_of_labels_are_not_taken_for_black(kind: type, high: int) -> None:
    with pytest.raises(ValueError, match=r"its greys go from 0 to .*, which is no usual scale: save it with 8 or 16"):
        greys([0, high / 2, high], kind)
    assert greys([0, 0, 0], kind) == [0, 0, 0]


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_modes(mode: str) -> None:
    assert to_rgb(Image.new(mode, (1, 1))).getpixel((0, 0)) == (255, 255, 255)


def test_greys_of_10_or_12_bits_in_16_are_not_taken_for_black() -> None:
    with pytest.raises(ValueError, match="its greys of 16 bits go to 4095 only, as those of 12 bits do"):
        greys([0, 2000, 4095], np.uint16)
    assert greys([0, 0, 0], np.uint16) == [0, 0, 0]


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_tiffs_whose_zero_is_white(tmp_path: Path, dtype: type, white: float) -> None:
    path = tmp_path / "negative.tif"
    Image.fromarray((np.array([[0, 0.2, 1]]) * white).astype(dtype)).save(path)
    data = path.read_bytes()
    tag, short, one = (262).to_bytes(2, "little"), (3).to_bytes(2, "little"), (1).to_bytes(4, "little")
    assert data.count(tag + short + one + b"\1") == 1  # black is zero, as Pillow writes it
    path.write_bytes(data.replace(tag + short + one + b"\1", tag + short + one + b"\0"))
    with Image.open(path) as image:
        image.load()
        assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [255, 204, 0]
