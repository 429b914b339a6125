"""Images as small pictures within an HTML page."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

from ex2.data.labelled import BrokenImage, LabelledImages

SIDE = 96  # pixels at most


class Thumbnail(NamedTuple):
    """A picture as a data URI, with its size in pixels."""

    uri: str
    width: int
    height: int


def thumbnail(images: LabelledImages, i: int) -> Thumbnail | None:
    """Image i made small; None where it cannot be read."""
    try:
        image = images.load(i)
    except BrokenImage:
        return None
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=85)
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Thumbnail(uri, image.width, image.height)
