"""Turning RGBA pictograms into network inputs, with and without augmentation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

OUTLINE_SHARE = 0.25
FLIP_SHARE = 0.5
BACKGROUND_SHARE = 0.35
ERASE_SHARE = 0.15
ERASE_SIDES = (12, 30)
OUTLINE_INK = 0.08


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    """Return ``count`` uniform random numbers between two bounds."""
    return torch.rand(count, generator=generator) * (high - low) + low


def network_input(rgb: torch.Tensor) -> torch.Tensor:
    """Map RGB 0..1 to the input range -1..1 of the image tower, channels last."""
    return ((rgb - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)


def prepare(images: torch.Tensor, mirrored: bool = False) -> torch.Tensor:
    """Lay uint8 RGBA images (N, 4, S, S) on white, without augmentation."""
    values = images.float() / 255
    alpha = values[:, 3:]
    rgb = values[:, :3] * alpha + (1 - alpha)
    return network_input(rgb.flip(3) if mirrored else rgb)


def add_outline(images: torch.Tensor, radius: int) -> torch.Tensor:
    """Draw a dark outline around premultiplied RGBA images 0..1."""
    alpha = images[:, 3:]
    grown = F.max_pool2d(alpha, 2 * radius + 1, stride=1, padding=radius)
    return torch.cat([images[:, :3] + OUTLINE_INK * (grown - alpha), grown], dim=1)


def random_affine(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rotate, scale, stretch, mirror and shift premultiplied RGBA images."""
    count = len(images)
    angle = uniform(count, -0.3, 0.3, generator)
    scale = uniform(count, 0.9, 1.45, generator)
    stretch = uniform(count, 0.88, 1.14, generator)
    mirror = torch.where(torch.rand(count, generator=generator) < FLIP_SHARE, -1.0, 1.0)
    shift_x = uniform(count, -0.125, 0.125, generator)
    shift_y = uniform(count, -0.125, 0.125, generator)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    first = torch.stack([cos * stretch * mirror, -sin, shift_x], dim=1)
    second = torch.stack([sin * mirror, cos / stretch, shift_y], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def random_colours(rgb: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Vary saturation, contrast, brightness and white balance (the hue stays, so colour names stay true)."""
    count = len(rgb)
    brightness = uniform(count, 0.75, 1.2, generator).view(-1, 1, 1, 1)
    contrast = uniform(count, 0.7, 1.25, generator).view(-1, 1, 1, 1)
    saturation = uniform(count, 0.4, 1.4, generator).view(-1, 1, 1, 1)
    balance = uniform(3 * count, 0.94, 1.06, generator).view(-1, 3, 1, 1)
    gray = rgb.mean(1, keepdim=True)
    rgb = ((rgb - gray) * saturation + gray - 0.5) * contrast + 0.5
    return rgb * brightness * balance


def erase(rgb: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Cover a random square of some images with a random gray (in place)."""
    size = rgb.shape[-1]
    for number in torch.where(torch.rand(len(rgb), generator=generator) < ERASE_SHARE)[0].tolist():
        side_share, top_share, left_share, gray = torch.rand(4, generator=generator).tolist()
        low, high = ERASE_SIDES
        side = min(size, low + math.floor(side_share * (high - low + 1)))
        top, left = math.floor(top_share * (size - side + 1)), math.floor(left_share * (size - side + 1))
        rgb[number, :, top : top + side, left : left + side] = gray
    return rgb


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return randomly varied network inputs (N, 3, S, S) in -1..1 from uint8 RGBA images (N, 4, S, S)."""
    count = len(images)
    values = images.float() / 255
    alpha = values[:, 3:]
    values = torch.cat([values[:, :3] * alpha, alpha], dim=1)
    chosen = torch.rand(count, generator=generator) < OUTLINE_SHARE
    radius = int(torch.randint(1, 3, (1,), generator=generator))
    if chosen.any():
        values[chosen] = add_outline(values[chosen], radius)
    values = random_affine(values, generator)
    tinted = (torch.rand(count, generator=generator) < BACKGROUND_SHARE).view(-1, 1, 1, 1)
    tint = uniform(3 * count, 0.3, 1.0, generator).view(-1, 3, 1, 1)
    background = torch.where(tinted, tint, torch.ones_like(tint))
    rgb = values[:, :3] + (1 - values[:, 3:]) * background
    rgb = erase(random_colours(rgb, generator), generator)
    return network_input(rgb.clamp(0, 1))
