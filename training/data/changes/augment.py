"""Random changes to a batch of training images and, where they move pixels, to its masks.

Most run on the whole batch at once, by amounts of each image; policies and quarter turns on groups
of images with the same draw, erasing on one image after the other.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as vision

from training.data.changes.policies import apply_policy
from training.recipes.data import Augment, PaddingCrop, RandomResizedCrop

# Random erasing: bounds of the rectangle's share of the image's area, and of height over width
# (arXiv 1708.04896).
_ERASED_AREA = (0.02, 0.33)
_ERASED_RATIO = (0.3, 3.3)
# Pixels; a smaller blur changes nothing.
_SMALLEST_SIGMA = 0.1


def augment(
    images: Tensor, targets: Tensor, changes: Augment, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Changes each image of uint8 [N, H, W, C] by amounts of its own. Returns images and targets.

    Targets of shape [N, H, W] are masks and move with their image, by nearest neighbour; others
    stay. Pixels from outside the image repeat its edge. All draws come from `generator`, a CPU
    generator; the images may be on any device.
    """
    # Autocast would compute on pixels in the network's lower precision.
    with torch.autocast(images.device.type, enabled=False):
        if changes.policy is not None:
            channels_first = apply_policy(images.permute(0, 3, 1, 2), changes.policy, generator)
            images = channels_first.permute(0, 2, 3, 1)
        if changes.quarter_turns:
            images, targets = _turn(images, targets, generator)
        if changes.padding_crop is not None:
            images, targets = _pad_and_crop(images, targets, changes.padding_crop, generator)
        if _moves(changes):
            images, targets = _move(images, targets, changes, generator)
        if changes.brightness or changes.contrast or changes.saturation or changes.hue:
            images = _recolour(images, changes, generator)
        if changes.blur:
            images = _blur(images, changes.blur, generator)
        if changes.erase:
            images = _erase(images, changes.erase, generator)
    return images, targets


def _turn(images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turns each square image by its own number of quarter turns, without interpolation."""
    turns = torch.randint(4, (len(images),), generator=generator)
    turned = images.clone(), targets.clone()
    for k in (1, 2, 3):
        chosen = (turns == k).to(images.device)
        turned[0][chosen] = torch.rot90(images[chosen], k, (1, 2))
        if targets.ndim == 3:
            turned[1][chosen] = torch.rot90(targets[chosen], k, (1, 2))
    return turned


def _pad_and_crop(
    images: Tensor, targets: Tensor, crop: PaddingCrop, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    count, height, width = images.shape[:3]
    padding = [crop.pixels] * 4
    top, left = torch.randint(2 * crop.pixels + 1, (2, count, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    padded = vision.pad_image(images.permute(0, 3, 1, 2), padding, padding_mode=crop.mode)
    images = _picked(padded.permute(0, 2, 3, 1), rows, columns)
    if targets.ndim == 3:
        masks = vision.pad_mask(targets[:, None], padding, padding_mode=crop.mode)
        targets = _picked(masks[:, 0], rows, columns)
    return images, targets


def _picked(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Images [N, H, W, ...] whose pixels are those at `rows` int64 [N, h] and `columns` [N, w].

    By one index for each pixel: to index by three takes five times as long.
    """
    count, height, width = images.shape[:3]
    starts = torch.arange(count)[:, None, None] * (height * width)
    places = starts + rows[:, :, None] * width + columns[:, None, :]
    pixels = images.flatten(0, 2).index_select(0, places.flatten().to(images.device))
    return pixels.view(*places.shape, *images.shape[3:])


def _moves(changes: Augment) -> bool:
    by_whole_pixels = (changes.flip, changes.vertical_flip, changes.shift)
    return any(by_whole_pixels) or _interpolates(changes)


def _interpolates(changes: Augment) -> bool:
    """Whether a moved pixel may come to lie between others."""
    return any((changes.rotate, changes.shear, changes.scale, changes.random_resized_crop))


def _source(maps: Tensor, length: int) -> Tensor:
    """The old place of each new place along an axis, int64 [N, length], by maps [N, 2] whose factor
    is 1 or -1 and whose offset is one of whole pixels."""
    factor, offset = maps[:, :1], maps[:, 1:] * (length / 2)
    places = torch.where(factor < 0, length - 1 - torch.arange(length), torch.arange(length))
    return (places + offset.round().long()).clamp(0, length - 1)


def _move(
    images: Tensor, targets: Tensor, changes: Augment, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    height, width = images.shape[1:3]
    theta = _affine(len(images), height, width, changes, generator)
    if not _interpolates(changes):
        rows, columns = _source(theta[:, 1, 1:], height), _source(theta[:, 0, ::2], width)
        images = _picked(images, rows, columns)
        return images, _picked(targets, rows, columns) if targets.ndim == 3 else targets
    theta = theta.to(images.device)
    grid = functional.affine_grid(
        theta, [len(images), images.shape[3], height, width], align_corners=False
    )
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
    """Affine maps float32 [N, 2, 3] from positions in the new image, in [-1, 1], to positions in
    the old one."""
    angle = _between(-1, 1, count, generator) * math.radians(changes.rotate)
    zoom = 1 / (1 + _between(-1, 1, count, generator) * changes.scale)
    mirror = _signs(changes.flip, count, generator)
    # Whole pixels: a shift by a fraction would blur.
    low, high = -changes.shift, changes.shift + 1
    right = torch.randint(low, high, (count,), generator=generator) * (2 / width)
    down = torch.randint(low, high, (count,), generator=generator) * (2 / height)
    upside = _signs(changes.vertical_flip, count, generator)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    # Coordinates are relative to the sides, so that a rotation needs their ratio.
    aspect = width / height
    theta = torch.stack(
        [
            torch.stack([cos * mirror, -sin * upside / aspect, right], dim=1),
            torch.stack([sin * mirror * aspect, cos * upside, down], dim=1),
        ],
        dim=1,
    )
    if changes.shear:
        theta = _after(theta, _sheared(count, aspect, math.radians(changes.shear), generator))
    if changes.random_resized_crop is not None:
        theta = _after(theta, _windows(count, aspect, changes.random_resized_crop, generator))
    return theta


def _after(first: Tensor, then: Tensor) -> Tensor:
    """The affine map [N, 2, 3] that applies `then`, and `first` to the result."""
    linear = first[:, :, :2] @ then[:, :, :2]
    offset = first[:, :, :2] @ then[:, :, 2:] + first[:, :, 2:]
    return torch.cat([linear, offset], dim=2)


def _sheared(count: int, aspect: float, limit: float, generator: torch.Generator) -> Tensor:
    """Shears [N, 2, 3] along the x axis, by at most `limit` radians."""
    tilt = (_between(-1, 1, count, generator) * limit).tan()
    theta = torch.eye(2, 3).repeat(count, 1, 1)
    theta[:, 0, 1] = tilt / aspect
    return theta


def _windows(
    count: int, aspect: float, crop: RandomResizedCrop, generator: torch.Generator
) -> Tensor:
    """Crops [N, 2, 3] at random places; a side longer than the image's is cut to it."""
    area = _between(*crop.area, count, generator)
    low, high = (math.log(ratio) for ratio in crop.ratio)
    ratio = _between(low, high, count, generator).exp() / aspect
    wide, tall = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = wide, tall
    theta[:, 0, 2] = _between(-1, 1, count, generator) * (1 - wide)
    theta[:, 1, 2] = _between(-1, 1, count, generator) * (1 - tall)
    return theta


def _recolour(images: Tensor, changes: Augment, generator: torch.Generator) -> Tensor:
    count = len(images)
    pixels = images.float()
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    contrast = 1 + _between(-1, 1, count, generator) * changes.contrast
    brightness = 1 + _between(-1, 1, count, generator) * changes.brightness
    contrast = contrast.to(images.device).view(-1, 1, 1, 1)
    brightness = brightness.to(images.device).view(-1, 1, 1, 1)
    pixels = ((pixels - mean) * contrast + mean) * brightness
    if changes.saturation or changes.hue:
        saturation = 1 + _between(-1, 1, count, generator) * changes.saturation
        angle = _between(-1, 1, count, generator) * changes.hue * 2 * math.pi
        matrices = _colour_matrices(saturation, angle).to(images.device)
        pixels = (pixels.flatten(1, 2) @ matrices.mT).view(pixels.shape)
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def _colour_matrices(saturation: Tensor, angle: Tensor) -> Tensor:
    """Matrices [N, 3, 3] from RGB to RGB that scale and turn the chroma plane of YIQ and keep luma.

    NVIDIA DALI's hsv does the same. torchvision converts to HSV, takes one angle a call, and is a
    hundred times slower.
    """
    luma = [0.299, 0.587, 0.114]
    to_yiq = torch.tensor([luma, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    turned = torch.zeros(len(angle), 3, 3)
    turned[:, 0, 0] = 1
    turned[:, 1, 1] = turned[:, 2, 2] = saturation * angle.cos()
    turned[:, 2, 1] = saturation * angle.sin()
    turned[:, 1, 2] = -turned[:, 2, 1]
    matrices: Tensor = torch.linalg.inv(to_yiq) @ turned @ to_yiq
    return matrices


def _blur(images: Tensor, limit: float, generator: torch.Generator) -> Tensor:
    """Blurs half of the images, each by its own Gaussian, in one grouped convolution."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    low = min(_SMALLEST_SIGMA, limit)
    sigma = _between(low, limit, len(images), generator)[chosen].to(images.device)
    chosen = chosen.to(images.device)
    if not len(sigma):
        return images
    height, width = images.shape[1:3]
    # Pixels on either side of the kernel's centre: three sigmas, or all that can be mirrored.
    reach = min(math.ceil(3 * limit), height - 1, width - 1)
    places = torch.arange(-reach, reach + 1, device=images.device)
    kernel = (-0.5 * (places / sigma[:, None]) ** 2).exp()
    channels = images.shape[3]
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    pixels = images[chosen].permute(0, 3, 1, 2).reshape(1, -1, height, width).float()
    pixels = functional.pad(pixels, [reach] * 4, mode="reflect")
    groups = len(kernel)
    pixels = functional.conv2d(pixels, kernel[:, None, None, :], groups=groups)
    pixels = functional.conv2d(pixels, kernel[:, None, :, None], groups=groups)
    blurred = pixels.round_().clamp_(0, 255).to(torch.uint8)
    images = images.clone()
    images[chosen] = blurred.reshape(-1, channels, height, width).permute(0, 2, 3, 1)
    return images


def _erase(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    count, height, width = images.shape[:3]
    chosen = torch.rand(count, generator=generator) < share
    area = _between(*_ERASED_AREA, count, generator) * height * width
    low, high = (math.log(ratio) for ratio in _ERASED_RATIO)
    ratio = _between(low, high, count, generator).exp()
    places = torch.rand(2, count, generator=generator)
    images = images.clone()
    for index in chosen.nonzero().flatten().tolist():
        tall = min(height, max(1, round(math.sqrt(float(area[index] * ratio[index])))))
        wide = min(width, max(1, round(math.sqrt(float(area[index] / ratio[index])))))
        top = int(places[0, index] * (height - tall + 1))
        left = int(places[1, index] * (width - wide + 1))
        shape = (tall, wide, images.shape[3])
        noise = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        images[index, top : top + tall, left : left + wide] = noise.to(images.device)
    return images


def _signs(wanted: bool, count: int, generator: torch.Generator) -> Tensor:
    """-1 for a random half of the images where `wanted`, else 1; float32 [N]."""
    signs = torch.ones(count)
    if wanted:
        signs[torch.rand(count, generator=generator) < 0.5] = -1
    return signs


def _between(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)
