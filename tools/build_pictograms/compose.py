"""Composite pictures with known attributes: recoloured, resized, counted, paired, on plain and scenic backgrounds.

Every composite comes with true captions and, caption by caption, false ones in which only the attribute is changed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tools.build_pictograms.colours import main_colours
from tools.build_pictograms.common import IMAGE_SIZE
from tools.build_pictograms.descriptions import article

RGB = tuple[int, int, int]
PLAIN: dict[str, RGB] = {
    "red": (225, 60, 60),
    "orange": (250, 160, 60),
    "yellow": (253, 220, 90),
    "green": (110, 190, 90),
    "blue": (70, 130, 215),
    "light blue": (160, 215, 248),
    "purple": (150, 105, 195),
    "pink": (248, 160, 195),
    "gray": (160, 163, 167),
    "black": (35, 35, 35),
    "brown": (140, 95, 65),
    "beige": (238, 215, 175),
}
HUES = {"red": 0.0, "orange": 0.085, "yellow": 0.145, "green": 0.33, "blue": 0.6, "purple": 0.76, "pink": 0.91}
COUNT_WORDS = ("one", "two", "three", "four")
COUNT_PLACES: tuple[tuple[tuple[int, int], ...], ...] = (
    ((20, 20),),
    ((0, 24), (48, 24)),
    ((0, 4), (48, 4), (24, 50)),
    ((0, 0), (48, 0), (0, 48), (48, 48)),
)
PIXEL_STEP = 3
OPAQUE, MIN_SATURATION, MIN_VALUE, MIN_CHROMATIC = 140, 70, 60, 0.3


@dataclass(frozen=True)
class Drawing:
    """One pictogram to compose with: RGBA pixels, its class's name and one of its kinds."""

    pixels: np.ndarray
    name: str
    kind: str
    monochrome: bool


@dataclass(frozen=True)
class Composite:
    """A composed picture (RGBA), what was done, and true and false captions that differ in the attribute alone."""

    pixels: np.ndarray
    what: str
    true: list[str]
    false: list[str]


def _grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE]
    return y, x


def _gradient(top: RGB, bottom: RGB) -> np.ndarray:
    t = np.linspace(0, 1, IMAGE_SIZE)[:, None, None]
    return (np.array(top) * (1 - t) + np.array(bottom) * t) * np.ones((1, IMAGE_SIZE, 1))


def _sea(rng: random.Random) -> np.ndarray:
    y, x = _grid()
    horizon = rng.randint(40, 62)
    base = _gradient((185, 225, 248), (215, 238, 250))
    wave = horizon + 2 * np.sin(x / rng.uniform(3, 7) + rng.random() * 6)
    base[y > wave] = (50, 120, 200)
    base[(y > wave + 8) & ((y + 3 * np.sin(x / 4)).astype(int) % 12 < 2)] = (120, 180, 230)
    return base


def _beach(rng: random.Random) -> np.ndarray:
    y, x = _grid()
    horizon = rng.randint(40, 62)
    base = _gradient((150, 210, 246), (190, 228, 250))
    base[y > horizon - 12] = (70, 150, 215)
    base[y > horizon + 2 * np.sin(x / 12)] = (240, 215, 160)
    return base


def _forest(rng: random.Random) -> np.ndarray:
    y, x = _grid()
    ground = IMAGE_SIZE - 18
    base = _gradient((190, 225, 200), (150, 200, 150))
    for _ in range(9):
        middle, height, width = rng.randint(0, IMAGE_SIZE), rng.randint(35, 70), rng.randint(9, 16)
        inside = (y > ground - height) & (y < ground) & (np.abs(x - middle) < width * (y - (ground - height)) / height)
        base[inside] = (rng.randint(20, 50), rng.randint(90, 130), rng.randint(45, 70))
    base[y >= ground] = (95, 140, 70)
    return base


def _snow(rng: random.Random) -> np.ndarray:
    y, x = _grid()
    base = _gradient((170, 200, 232), (220, 232, 245))
    base[y > rng.randint(40, 62) + 4 * np.sin(x / 15 + rng.random() * 6)] = (248, 250, 253)
    for _ in range(25):
        top, left = rng.randint(1, IMAGE_SIZE - 2), rng.randint(1, IMAGE_SIZE - 2)
        base[top : top + 2, left : left + 2] = 255
    return base


def _meadow(rng: random.Random) -> np.ndarray:
    y, x = _grid()
    base = _gradient((160, 215, 248), (215, 238, 252))
    base[y > rng.randint(40, 62) + 3 * np.sin(x / 14 + rng.random() * 6)] = (125, 195, 85)
    return base


def _night(rng: random.Random) -> np.ndarray:
    y, x = _grid()
    base = _gradient((15, 20, 60), (40, 50, 100))
    for _ in range(18):
        base[rng.randint(1, IMAGE_SIZE - 2), rng.randint(1, IMAGE_SIZE - 2)] = (255, 245, 190)
    base[(y - 16) ** 2 + (x - rng.choice((16, 78))) ** 2 < 70] = (250, 235, 150)
    return base


def _desert(rng: random.Random) -> np.ndarray:
    y, x = _grid()
    base = _gradient((250, 220, 160), (252, 235, 195))
    base[y > rng.randint(40, 62) + 5 * np.sin(x / 13 + rng.random() * 6)] = (226, 178, 105)
    return base


SCENES: dict[str, Callable[[random.Random], np.ndarray]] = {
    "at sea": _sea,
    "on the beach": _beach,
    "in a forest": _forest,
    "in the snow": _snow,
    "on a meadow": _meadow,
    "at night": _night,
    "in the desert": _desert,
}


def recolour(pixels: np.ndarray, colour: str) -> np.ndarray | None:
    """Turn the chromatic part of an RGBA drawing to one hue; None if the drawing has too little colour."""
    alpha = pixels[..., 3]
    hsv = np.asarray(Image.fromarray(pixels[..., :3]).convert("HSV")).astype(float)
    opaque = alpha > OPAQUE
    chromatic = (hsv[..., 1] > MIN_SATURATION) & (hsv[..., 2] > MIN_VALUE) & opaque
    if chromatic.sum() < MIN_CHROMATIC * opaque.sum():
        return None
    distance = hsv[..., 0] / 255 - np.median(hsv[..., 0][chromatic]) / 255
    spread = ((distance + 0.5) % 1 - 0.5) * 0.25
    low, high = (90, 130) if colour == "pink" else (150, 230)
    hsv[..., 0] = np.where(chromatic, (HUES[colour] + spread) % 1 * 255, hsv[..., 0])
    hsv[..., 1] = np.where(chromatic, np.clip(hsv[..., 1], low, high), hsv[..., 1])
    hsv[..., 2] = np.where(chromatic, np.clip(hsv[..., 2], 150, 255), hsv[..., 2])
    rgb = np.asarray(Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB"))
    return np.dstack([rgb, alpha])


def blank(colour: RGB = (255, 255, 255)) -> np.ndarray:
    """Return an RGB canvas of one colour."""
    return np.full((IMAGE_SIZE, IMAGE_SIZE, 3), colour, dtype=np.uint8)


def paste(canvas: np.ndarray, pixels: np.ndarray, size: int, left: int, top: int) -> None:
    """Lay an RGBA drawing on an RGB canvas, scaled to a size (in place)."""
    small = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    picture = Image.fromarray(canvas)
    picture.paste(small.convert("RGB"), (left, top), small.getchannel("A"))
    canvas[:] = np.asarray(picture)


def _opaque(rgb: np.ndarray) -> np.ndarray:
    return np.dstack([rgb, np.full((IMAGE_SIZE, IMAGE_SIZE), 255, np.uint8)])


def _plural(name: str) -> str:
    return name if name.endswith(("s", "fish")) else name + "s"


def recoloured(drawing: Drawing, rng: random.Random) -> Composite | None:
    """Give a drawing another colour; None if its colours do not allow that."""
    colour = rng.choice(list(HUES))
    pixels = None if drawing.monochrome else recolour(drawing.pixels, colour)
    if pixels is None:
        return None
    found = main_colours(pixels[::PIXEL_STEP, ::PIXEL_STEP])
    if colour not in found:
        return None
    wrong = rng.choice([other for other in HUES if other not in found])
    true, false = (
        [
            f"{article(word)} {drawing.name}",
            f"{drawing.name}: It is {word}.",
            f"{article(word)} {drawing.kind}",
            f"It is {word}.",
        ]
        for word in (colour, wrong)
    )
    return Composite(pixels, "recoloured", true, false)


def counted(drawing: Drawing, rng: random.Random) -> Composite:
    """Show a drawing one to four times."""
    number, wrong = rng.sample(range(1, 5), 2)
    canvas = blank()
    for left, top in COUNT_PLACES[number - 1]:
        paste(canvas, drawing.pixels, 48, left, top)

    def captions(count: int) -> list[str]:
        word, many = COUNT_WORDS[count - 1], count > 1
        name, kind = (_plural(text) if many else text for text in (drawing.name, drawing.kind))
        verb = "are" if many else "is"
        return [f"{word} {name}", f"a picture of {word} {name}", f"{word} {kind}", f"There {verb} {word} of them."]

    return Composite(_opaque(canvas), "counted", captions(number), captions(wrong))


def resized(drawing: Drawing, rng: random.Random) -> Composite:
    """Show a drawing small or filling the picture."""
    small = rng.random() < 0.5
    side = rng.randint(24, 36) if small else IMAGE_SIZE
    canvas = blank()
    paste(canvas, drawing.pixels, side, rng.randint(0, IMAGE_SIZE - side), rng.randint(0, IMAGE_SIZE - side))
    fill = {"small": "It is tiny in the picture.", "large": "It fills the picture."}
    true, false = (
        [f"a {word} {drawing.name}", f"{drawing.name}: {fill[word]}", f"a {word} {drawing.kind}", fill[word]]
        for word in (("small", "large") if small else ("large", "small"))
    )
    return Composite(_opaque(canvas), "resized", true, false)


def on_plain(drawing: Drawing, rng: random.Random) -> Composite:
    """Show a drawing on a background of one colour."""
    colour, wrong = rng.sample(list(PLAIN), 2)
    canvas = blank(PLAIN[colour])
    paste(canvas, drawing.pixels, 80, 8, 8)
    true, false = (
        [
            f"{article(drawing.name)} on {article(word)} background",
            f"{drawing.name}: The background is {word}.",
            f"{article(drawing.kind)} on {article(word)} background",
            f"The background is {word}.",
        ]
        for word in (colour, wrong)
    )
    return Composite(_opaque(canvas), "plain background", true, false)


def in_scene(drawing: Drawing, rng: random.Random) -> Composite:
    """Show a drawing in a simple drawn scene."""
    place, wrong = rng.sample(list(SCENES), 2)
    canvas = SCENES[place](rng).astype(np.uint8)
    paste(canvas, drawing.pixels, 62, rng.randint(0, 34), rng.randint(16, 34))
    true, false = (
        [
            f"{article(drawing.name)} {where}",
            f"{drawing.name}: It is {where}.",
            f"{article(drawing.kind)} {where}",
            f"It is {where}.",
        ]
        for where in (place, wrong)
    )
    return Composite(_opaque(canvas), "scene", true, false)


def paired(drawing: Drawing, beside: Drawing, absent: str, rng: random.Random) -> Composite:
    """Show two drawings side by side; the false captions name a third class in place of the second."""
    canvas = blank()
    paste(canvas, drawing.pixels, 48, 0, 24)
    paste(canvas, beside.pixels, 48, 48, 24)
    one = article(drawing.name)
    true, false = (
        [f"{one} and {two}", f"{one} next to {two}", f"{two} and {one}", f"{one} beside {two}"]
        for two in (article(beside.name), article(absent))
    )
    return Composite(_opaque(canvas), "paired", true, false)


def compose(drawing: Drawing, beside: Drawing, absent: str, rng: random.Random) -> Composite | None:
    """Make one composite of a random kind; None if the drawing does not allow that kind."""
    single = rng.choice((recoloured, recoloured, recoloured, counted, resized, on_plain, in_scene, None))
    return paired(drawing, beside, absent, rng) if single is None else single(drawing, rng)
