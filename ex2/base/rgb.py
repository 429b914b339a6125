"""One way to turn any PIL image into the RGB image that the image encoders read."""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image


def to_rgb(image: Image.Image) -> Image.Image:
    """``image`` as a viewer shows it, in mode RGB: turned by its EXIF orientation, transparent parts on white.

    Plain ``convert("RGB")`` shows whatever colour lies under transparent pixels, ignores the orientation, and cuts
    16-bit greys off at 255, which leaves them nearly white.
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
    if image.mode.startswith("I;16"):
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    if image.mode != "RGB":
        image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)
