"""Random changes to a batch of training images and, where they move pixels, to its masks."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from training.recipe.data import Augment


def augment(
    images: Tensor, targets: Tensor, changes: Augment, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """uint8 [N, H, W, 3] and targets, both as they came or changed, each image on its own.

    Targets of shape [N, H, W] are masks and move with their image, by nearest neighbour; others are
    left alone. What comes in from outside repeats the edge. `generator` is a CPU generator; the
    images may be on any device.
    """
    if changes.quarter_turns:
        images, targets = _turn(images, targets, generator)
    if changes.shift or changes.rotate or changes.scale or changes.flip:
        images, targets = _move(images, targets, changes, generator)
    if changes.brightness or changes.contrast:
        images = _relight(images, changes, generator)
    return images, targets


def _turn(images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Square images, each by its own number of quarter turns: exact, no pixel is mixed."""
    turns = torch.randint(4, (len(images),), generator=generator)
    images = torch.stack([torch.rot90(i, int(k)) for i, k in zip(images, turns, strict=True)])
    if targets.ndim == 3:
        targets = torch.stack([torch.rot90(t, int(k)) for t, k in zip(targets, turns, strict=True)])
    return images, targets


def _move(
    images: Tensor, targets: Tensor, changes: Augment, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    height, width = images.shape[1:3]
    theta = _affine(len(images), height, width, changes, generator).to(images.device)
    grid = functional.affine_grid(theta, [len(images), 3, height, width], align_corners=False)
    pixels = images.permute(0, 3, 1, 2).float()
    moved = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    images = moved.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    if targets.ndim == 3:
        masks = functional.grid_sample(
            targets.unsqueeze(1).float(),
            grid,
            mode="nearest",
            padding_mode="border",
            align_corners=False,
        )
        targets = masks.squeeze(1).to(targets.dtype)
    return images, targets


def _affine(
    count: int, height: int, width: int, changes: Augment, generator: torch.Generator
) -> Tensor:
    """float32 [N, 2, 3]: from a place in the new image, in [-1, 1], to its place in the old."""
    angle = _between(-1, 1, count, generator) * math.radians(changes.rotate)
    zoom = 1 / (1 + _between(-1, 1, count, generator) * changes.scale)
    mirror = torch.ones(count)
    if changes.flip:
        mirror[torch.rand(count, generator=generator) < 0.5] = -1
    # Whole pixels, so that a shift alone does not blur.
    low, high = -changes.shift, changes.shift + 1
    right = torch.randint(low, high, (count,), generator=generator) * (2 / width)
    down = torch.randint(low, high, (count,), generator=generator) * (2 / height)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    # Coordinates are relative to each side, so a rotation has to know how long the sides are.
    return torch.stack(
        [
            torch.stack([cos * mirror, -sin * height / width, right], dim=1),
            torch.stack([sin * mirror * width / height, cos, down], dim=1),
        ],
        dim=1,
    )


def _relight(images: Tensor, changes: Augment, generator: torch.Generator) -> Tensor:
    count = len(images)
    pixels = images.float()
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    contrast = 1 + _between(-1, 1, count, generator) * changes.contrast
    brightness = 1 + _between(-1, 1, count, generator) * changes.brightness
    contrast = contrast.to(images.device).view(-1, 1, 1, 1)
    brightness = brightness.to(images.device).view(-1, 1, 1, 1)
    relit = ((pixels - mean) * contrast + mean) * brightness
    return relit.round_().clamp_(0, 255).to(torch.uint8)


def _between(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)
