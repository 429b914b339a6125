"""The embedded pictograms in drawn scenes: each on a background, in a size and a number that are known for every image.

Nothing is stored: a scene is composed when it is opened, from the pictogram's file and a recipe that its id alone
decides. Background, size and count are drawn independently of class, family and each other, so that what a text gains
by naming one of them can be told from what it gains by naming the class.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from PIL import Image, ImageDraw, ImageFilter

from ex2.data.labelled import LabelledImages, fingerprint_of
from ex2.data.pictograms import PICTOGRAMS, load_pictograms

T = TypeVar("T")
RGB = tuple[int, int, int]

RECIPE = 1  # raise it whenever a scene comes out different
SIDE = 144  # pixels of a scene
SIZES = {"small": 60, "medium": 78, "large": 96}  # pixels of one drawing; smaller ones the embedded VLM hardly sees
# Where the drawings of a scene may lie, by their number: boxes (left, top, right, bottom), none smaller than the largest.
# The later ones lie in front; of large ones a part is hidden.
_CELLS: dict[int, tuple[tuple[int, int, int, int], ...]] = {
    1: ((0, 0, 144, 144),),
    2: ((0, 0, 96, 96), (48, 48, 144, 144)),
    3: ((0, 0, 96, 96), (48, 0, 144, 96), (24, 48, 120, 144)),
}
_RIM = 2  # pixels of white around a drawing, as around a sticker, so that none vanishes into its background


class Recipe(NamedTuple):
    """What is known of a scene: name of its background, size of its drawings, and number of them."""

    background: str
    size: str
    number: int


def load_pictogram_scenes(root: Path = PICTOGRAMS, query: str = "") -> LabelledImages:
    """The image set ``pictogram-scenes``: one scene, 144 x 144 pixels, for each image of ``pictograms``.

    Ids, classes and splits are those of `load_pictograms`, and so are ``query`` and the attributes ``family`` and
    ``palette`` (of the drawing). ``background``, ``size`` and ``count`` are the scene's. The fingerprint covers the
    version of the recipe and the content of the images.

    Raises:
        UserError: as `load_pictograms`.
    """
    drawings = load_pictograms(root, query)
    recipes = [recipe_of(image_id) for image_id in drawings.image_ids]
    return LabelledImages(
        name="pictogram-scenes" + (query and f"?{query}"),
        class_names=drawings.class_names,
        labels=drawings.labels,
        image_ids=drawings.image_ids,
        splits=drawings.splits,
        fingerprint=fingerprint_of(["pictogram-scenes", RECIPE, drawings.fingerprint]),
        loader=SceneLoader(drawings.loader, drawings.image_ids),
        attributes={
            **drawings.attributes,
            "background": tuple(recipe.background for recipe in recipes),
            "size": tuple(recipe.size for recipe in recipes),
            "count": tuple(str(recipe.number) for recipe in recipes),
        },
    )


@dataclass(frozen=True)
class SceneLoader:
    """Composes scene i from drawing i."""

    drawings: Callable[[int], Image.Image]
    image_ids: tuple[str, ...]

    def __call__(self, i: int) -> Image.Image:
        return compose(self.drawings(i), self.image_ids[i])


def recipe_of(image_id: str) -> Recipe:
    """The recipe of a scene; its id alone decides."""
    rng = _chance("recipe", image_id)
    return Recipe(_pick(rng, tuple(BACKGROUNDS)), _pick(rng, tuple(SIZES)), _pick(rng, tuple(_CELLS)))


def compose(drawing: Image.Image, image_id: str) -> Image.Image:
    """The scene of a drawing with transparency: an RGB image of 144 x 144 pixels."""
    recipe, rng = recipe_of(image_id), _chance("scene", image_id)
    scene = Image.new("RGB", (SIDE, SIDE))
    BACKGROUNDS[recipe.background](ImageDraw.Draw(scene), rng)
    side = SIZES[recipe.size]
    sticker = _sticker(drawing, side)
    for left, top, right, bottom in _CELLS[recipe.number]:
        place = _between(rng, left, right - side), _between(rng, top, bottom - side)
        scene.paste(sticker, place, sticker)
    return scene


def _sticker(drawing: Image.Image, side: int) -> Image.Image:
    """The drawing in RGBA with a white rim, ``side`` pixels wide and high with it."""
    inner = side - 2 * _RIM
    sticker = Image.new("RGBA", (side, side))
    sticker.paste(drawing.convert("RGBA").resize((inner, inner), Image.Resampling.LANCZOS), (_RIM, _RIM))
    rim = Image.new("RGBA", (side, side), "white")
    rim.putalpha(sticker.getchannel("A").filter(ImageFilter.MaxFilter(2 * _RIM + 1)))
    rim.alpha_composite(sticker)
    return rim


# ---------------------------------------------------------------- chance, the same on every machine and version


def _chance(purpose: str, image_id: str) -> random.Random:
    return random.Random(f"{RECIPE}/{purpose}/{image_id}")


def _between(rng: random.Random, low: int, high: int) -> int:
    """An integer from ``low`` to ``high``; of a Random only ``random()`` is promised to stay the same."""
    return low + int(rng.random() * (high - low + 1))


def _pick(rng: random.Random, items: Sequence[T]) -> T:
    return items[_between(rng, 0, len(items) - 1)]


# ---------------------------------------------------------------- backgrounds


def _shade(draw: ImageDraw.ImageDraw, top: RGB, bottom: RGB, until: int = SIDE) -> None:
    """Fill the rows above ``until`` with a gradient."""
    for y in range(until):
        colour = tuple(round(a + (b - a) * y / until) for a, b in zip(top, bottom, strict=True))
        draw.line((0, y, SIDE, y), fill=colour)


def _disc(draw: ImageDraw.ImageDraw, x: int, y: int, radius: int, colour: RGB) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _dots(draw: ImageDraw.ImageDraw, rng: random.Random, number: int, top: int, bottom: int, colour: RGB) -> None:
    for _ in range(number):
        _disc(draw, _between(rng, 0, SIDE), _between(rng, top, bottom), 1, colour)


def _ground(draw: ImageDraw.ImageDraw, rng: random.Random, colour: RGB, steep: int) -> int:
    """Two hills over the lower part of the scene; returns the row of the horizon."""
    horizon = _between(rng, 72, 92)
    for left in (-60, 40):
        top = horizon - _between(rng, 0, steep)
        draw.ellipse((left, top, left + 170, top + 200), fill=colour)
    draw.rectangle((0, horizon + steep, SIDE, SIDE), fill=colour)
    return horizon


def _meadow(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    _shade(draw, (150, 208, 246), (222, 240, 250))
    horizon = _ground(draw, rng, (122, 190, 84), 14)
    _dots(draw, rng, 14, horizon + 20, SIDE, (250, 225, 90))
    _dots(draw, rng, 14, horizon + 20, SIDE, (250, 250, 250))


def _sea(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    _shade(draw, (190, 226, 248), (226, 242, 250))
    horizon = _between(rng, 44, 70)
    draw.rectangle((0, horizon, SIDE, SIDE), fill=(48, 120, 196))
    for y in range(horizon + 10, SIDE, 13):
        start = _between(rng, -16, 0)
        for x in range(start, SIDE, 16):
            draw.arc((x, y, x + 16, y + 8), 0, 180, fill=(140, 192, 234), width=2)


def _sky(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    _shade(draw, (96, 172, 236), (196, 226, 248))
    for _ in range(4):
        x, y = _between(rng, 10, 134), _between(rng, 12, 130)
        for step, radius in ((-12, 7), (0, 11), (12, 8)):
            _disc(draw, x + step, y, radius, (255, 255, 255))


def _night(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    _shade(draw, (14, 20, 58), (48, 58, 112))
    _dots(draw, rng, 32, 0, SIDE, (255, 244, 190))
    _disc(draw, _between(rng, 20, 124), 22, 11, (250, 236, 160))


def _desert(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    _shade(draw, (252, 214, 150), (253, 238, 204))
    _disc(draw, _between(rng, 20, 124), 24, 12, (252, 190, 80))
    horizon = _ground(draw, rng, (228, 182, 112), 20)
    draw.ellipse((30, horizon + 24, 240, horizon + 190), fill=(212, 162, 92))


def _snow(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    _shade(draw, (158, 188, 220), (206, 222, 238))
    _ground(draw, rng, (246, 249, 253), 12)
    _dots(draw, rng, 40, 0, 100, (255, 255, 255))


def _forest(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    _shade(draw, (196, 226, 190), (150, 196, 142))
    for x in range(4, SIDE, 20):
        x, crown = x + _between(rng, -5, 5), _between(rng, 28, 46)
        draw.rectangle((x - 3, crown, x + 3, 118), fill=(112, 78, 50))
        _disc(draw, x, crown, _between(rng, 14, 19), (_between(rng, 40, 80), _between(rng, 118, 146), 62))
    draw.rectangle((0, 116, SIDE, SIDE), fill=(98, 128, 66))


def _room(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    wall = _pick(rng, ((238, 222, 196), (214, 226, 222), (232, 210, 212)))
    draw.rectangle((0, 0, SIDE, SIDE), fill=wall)
    draw.rectangle((0, 104, SIDE, SIDE), fill=(176, 126, 82))
    for y in range(112, SIDE, 10):
        draw.line((0, y, SIDE, y), fill=(150, 104, 66))
    x = _between(rng, 8, 90)
    draw.rectangle((x, 16, x + 44, 66), fill=(176, 216, 244), outline=(250, 250, 250), width=4)
    draw.line((x + 22, 16, x + 22, 66), fill=(250, 250, 250), width=3)
    draw.line((x, 41, x + 44, 41), fill=(250, 250, 250), width=3)


def _street(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    _shade(draw, (178, 212, 238), (224, 236, 244))
    for x in range(0, SIDE, 36):
        roof = _between(rng, 18, 54)
        colour = _pick(rng, ((186, 104, 84), (206, 176, 136), (142, 150, 166)))
        draw.rectangle((x, roof, x + 34, 104), fill=colour)
        for y in range(roof + 8, 90, 16):
            for window in (x + 6, x + 20):
                draw.rectangle((window, y, window + 8, y + 9), fill=(250, 236, 176))
    draw.rectangle((0, 104, SIDE, SIDE), fill=(94, 98, 104))
    for x in range(4, SIDE, 28):
        draw.rectangle((x, 122, x + 14, 125), fill=(246, 246, 240))


BACKGROUNDS: dict[str, Callable[[ImageDraw.ImageDraw, random.Random], None]] = {
    "meadow": _meadow,
    "sea": _sea,
    "sky": _sky,
    "night": _night,
    "desert": _desert,
    "snow": _snow,
    "forest": _forest,
    "room": _room,
    "street": _street,
}
