"""Naming the main colours of a pictogram: nearest palette entry in CIE Lab."""

from __future__ import annotations

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


def colour_shares(pixels: np.ndarray) -> dict[str, float]:
    """Return the share of each palette colour among the opaque pixels of an RGBA image (empty if there are none)."""
    flat = pixels.reshape(-1, 4)
    opaque = flat[flat[:, 3] > OPAQUE][:, :3]
    if len(opaque) == 0:
        return {}
    palette = to_lab(np.array(list(PALETTE.values())))
    nearest = ((to_lab(opaque)[:, None] - palette[None]) ** 2).sum(-1).argmin(1)
    shares = np.bincount(nearest, minlength=len(PALETTE)) / len(opaque)
    return dict(zip(PALETTE, shares.tolist(), strict=True))


def main_colours(pixels: np.ndarray, limit: int = 3) -> list[str]:
    """Return up to ``limit`` colours that cover more than MIN_SHARE of the drawing, largest first; else the largest."""
    shares = colour_shares(pixels)
    ranked = sorted(shares, key=lambda name: -shares[name])[:limit]
    return [name for name in ranked if shares[name] > MIN_SHARE] or ranked[:1]
