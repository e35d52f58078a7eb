"""The policies of torchvision, with many draws for a batch. Images with the same draw are changed
in one call, since a call on a small image costs more than its work."""

import itertools
from collections import defaultdict

import torch
from torch import Tensor
from torchvision.transforms import v2

from training.recipes.data import Policy, RandAugment

# Draws for a batch, at most. More vary it more, fewer take less time.
_DRAWS = 16


def apply_policy(images: Tensor, policy: Policy, generator: torch.Generator) -> Tensor:
    """Changes each image of uint8 [N, C, H, W], of 1 or 3 channels, by a draw of its own; in a
    batch of more than 16 images some share theirs.

    generator: a CPU generator; the images may be on any device.
    """
    changes = _Grouped(policy)
    for _ in range(changes.num_ops):
        images = changes.changed_once(images, generator)
    return images


class _Grouped(v2.RandAugment):  # type: ignore[misc]
    """RandAugment (arXiv 1909.13719), or TrivialAugment (arXiv 2103.10158): one change of random
    strength, from a wider space. Changes and their strengths are torchvision's, whose class draws
    once for a whole batch."""

    def __init__(self, policy: Policy) -> None:
        self._is_trivial = not isinstance(policy, RandAugment)
        if isinstance(policy, RandAugment):
            super().__init__(policy.operations, policy.magnitude)
            return
        super().__init__(num_ops=1)
        self._AUGMENTATION_SPACE = v2.TrivialAugmentWide._AUGMENTATION_SPACE

    def changed_once(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """One change of each image."""
        groups = self._drawn(images, generator)
        # Side by side a group is a view: each needs no index of its own.
        order = torch.tensor([row for rows in groups.values() for row in rows])
        ordered = images[order.to(images.device)].contiguous()
        ends = list(itertools.accumulate(map(len, groups.values())))
        parts = ordered.tensor_split(ends[:-1])
        changed = [
            self._apply_image_or_video_transform(
                part, name, magnitude, self.interpolation, self._fill
            )
            for part, (name, magnitude) in zip(parts, groups, strict=True)
        ]
        return torch.cat(changed)[order.argsort().to(images.device)]

    def _drawn(
        self, images: Tensor, generator: torch.Generator
    ) -> dict[tuple[str, float], list[int]]:
        """The images of each change and strength."""
        count, _, height, width = images.shape
        bins = self.num_magnitude_bins
        space = [
            (name, magnitudes(bins, height, width), signed)
            for name, (magnitudes, signed) in self._AUGMENTATION_SPACE.items()
        ]
        draws = min(count, _DRAWS)
        changes = torch.randint(len(space), (draws,), generator=generator).tolist()
        strengths = torch.randint(bins, (draws,), generator=generator).tolist()
        negative = (torch.rand(draws, generator=generator) < 0.5).tolist()
        rows: dict[tuple[str, float], list[int]] = defaultdict(list)
        for draw, (change, strength) in enumerate(zip(changes, strengths, strict=True)):
            name, magnitudes, signed = space[change]
            magnitude = 0.0
            if magnitudes is not None:
                magnitude = float(magnitudes[strength if self._is_trivial else self.magnitude])
            signed_magnitude = -magnitude if signed and negative[draw] else magnitude
            # Neighbours may be of one class or person: they get different draws.
            rows[name, signed_magnitude] += range(draw, count, draws)
        return rows
