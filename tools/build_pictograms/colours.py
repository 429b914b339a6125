"""Naming the main colours of a pictogram: nearest palette entry in CIE Lab."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

PALETTE: dict[str, tuple[int, int, int]] = {
    "black": (25, 25, 25),
    "white": (250, 250, 250),
    "gray": (135, 140, 145),
    "red": (215, 35, 40),
    "orange": (245, 140, 30),
    "yellow": (252, 210, 50),
    "green": (80, 165, 60),
    "teal": (25, 160, 150),
    "blue": (50, 110, 200),
    "light blue": (130, 205, 245),
    "purple": (130, 80, 180),
    "pink": (245, 130, 175),
    "brown": (125, 75, 45),
    "beige": (235, 200, 150),
    "dark blue": (25, 45, 100),
}
OPAQUE = 140
MIN_SHARE = 0.13
_SRGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE_POINT = np.array([0.9505, 1.0, 1.089])


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """Convert sRGB values 0..255 (..., 3) to CIE Lab under D65."""
    values = np.asarray(rgb, dtype=float) / 255
    linear = np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
    xyz = linear @ _SRGB_TO_XYZ.T / _WHITE_POINT
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


# Shades that the palette would give to a neighbour: a lime frog is green, not yellow. The colour captions of the training
# do without them.
SHADES: dict[str, dict[str, tuple[int, int, int]]] = {
    "black": {"ink": (52, 42, 62)},
    "gray": {"pale gray": (175, 180, 185)},
    "red": {"dark red": (140, 25, 40)},
    "yellow": {"pale yellow": (255, 236, 150)},
    "green": {
        "lime": (180, 205, 65),
        "light green": (165, 215, 130),
        "olive": (115, 130, 50),
        "dark green": (30, 85, 50),
    },
    "brown": {"reddish brown": (165, 95, 65)},
}


def colour_shares(pixels: np.ndarray, palette: Mapping[str, tuple[int, int, int]] = PALETTE) -> dict[str, float]:
    """Return the share of each palette colour among the opaque pixels of an RGBA image (empty if there are none)."""
    flat = pixels.reshape(-1, 4)
    opaque = flat[flat[:, 3] > OPAQUE][:, :3]
    if len(opaque) == 0:
        return {}
    colours = to_lab(np.array(list(palette.values())))
    nearest = ((to_lab(opaque)[:, None] - colours[None]) ** 2).sum(-1).argmin(1)
    shares = np.bincount(nearest, minlength=len(palette)) / len(opaque)
    return dict(zip(palette, shares.tolist(), strict=True))


def shade_shares(pixels: np.ndarray) -> dict[str, float]:
    """Return what `colour_shares` does, where a colour includes its shades."""
    shares = colour_shares(pixels, PALETTE | {name: rgb for shades in SHADES.values() for name, rgb in shades.items()})
    return {name: shares[name] + sum(shares[shade] for shade in SHADES.get(name, ())) for name in PALETTE if shares}


def main_colours(
    pixels: np.ndarray, limit: int = 3, shares_of: Callable[[np.ndarray], dict[str, float]] = colour_shares
) -> list[str]:
    """Return up to ``limit`` colours that cover more than MIN_SHARE of the drawing, largest first; else the largest."""
    shares = shares_of(pixels)
    ranked = sorted(shares, key=lambda name: -shares[name])[:limit]
    return [name for name in ranked if shares[name] > MIN_SHARE] or ranked[:1]
