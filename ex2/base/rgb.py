"""One way to turn any PIL image into the RGB image that the image encoders read."""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image

_DARK = 1 / 16  # of white: an image that has nothing lighter is taken for one of another scale
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a tag of TIFF, and one of its values


def to_rgb(image: Image.Image) -> Image.Image:
    """``image`` as a viewer shows it, in mode RGB: turned by its EXIF orientation, transparent parts on white.

    Plain ``convert("RGB")`` shows whatever colour lies under transparent pixels, ignores the orientation, and cuts greys of
    more than 8 bits off at 255, which leaves 16-bit ones nearly white and floats in 0 to 1 black.

    Raises:
        ValueError: Greys whose scale is not known, or a mode that Pillow cannot convert.
    """
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    # Not ImageOps.exif_transpose: that also rewrites the EXIF block, and fails with TypeError on damaged ones.
    turn = turns.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        # Pillow knows no other way from premultiplied greys.
        white.alpha_composite((image.convert("LA") if image.mode == "La" else image).convert("RGBA"))
        image = white
    if image.mode != "RGB":
        image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Greys of 16 or 32 bits as 8 bits, by the full scale that they were written in."""
    greys = np.asarray(image).astype(np.float64)
    light = np.clip(greys / _white(image.mode, greys), 0, 1)
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # which Pillow heeds in TIFFs of 8 bits only
        light = 1 - light
    return Image.fromarray(np.floor(light * 255 + 0.5).astype(np.uint8))


def _white(mode: str, greys: np.ndarray) -> float:
    """The value of white: that of the type, or where files of a type use several, the smallest that holds all values.

    Floats are written from 0 to 1, 255 or 65535, and may be a little beyond where they were resampled. What stays below a
    sixteenth of white has another unit, as 12 bits in 16, a few times 1, or the numbers of labels have: it would be black.
    """
    low, high = (float(greys.min()), float(greys.max())) if greys.size else (0.0, 0.0)
    if mode.startswith("I;16"):
        if 0 < high < 65536 * _DARK:
            raise ValueError(f"its greys of 16 bits go to {high:g} only, as those of 12 bits do: save it with 8 bits")
        return 65535.0
    scales, slack = ((1.0, 255.0, 65535.0), 0.02) if mode == "F" else ((255.0, 65535.0, 2.0**31 - 1), 0.0)
    white = next((white for white in scales if high <= white * (1 + slack)), None)
    if white is None or not low >= -slack * white or 0 < high < (white + 1) * _DARK:
        raise ValueError(f"its greys go from {low:g} to {high:g}, which is no usual scale: save it with 8 or 16 bits")
    return white
