"""Augmentation moves masks with their images and draws from its generator only."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vision

from training.data.changes.augment import augment
from training.errors import RecipeError
from training.recipes import parse_recipe
from training.recipes.data import (
    Augment,
    PaddingCrop,
    RandAugment,
    RandomResizedCrop,
    TrivialAugment,
)


def batch() -> tuple[Tensor, Tensor]:
    """Images whose red value is 40 times the class of the pixel, and those classes."""
    masks = torch.zeros(8, 20, 20, dtype=torch.uint8)
    masks[:, 5:12, 8:15] = 1
    masks[:, 12:16, 8:15] = 2
    images = torch.zeros(8, 20, 20, 3, dtype=torch.uint8)
    images[..., 0] = masks * 40
    return images, masks


def generator(seed: int = 0) -> torch.Generator:
    made = torch.Generator()
    made.manual_seed(seed)
    return made


def test_nothing_asked_changes_nothing() -> None:
    images, masks = batch()
    changed, moved = augment(images, masks, Augment(), generator())
    assert torch.equal(changed, images)
    assert torch.equal(moved, masks)


@pytest.mark.parametrize(
    "changes",
    [
        Augment(shift=3, rotate=20, scale=0.2, flip=True, shear=10),
        Augment(random_resized_crop=RandomResizedCrop()),
        Augment(padding_crop=PaddingCrop(pixels=4, mode="edge"), quarter_turns=True),
        Augment(brightness=0.4, contrast=0.4),
        Augment(blur=2.0),
    ],
    ids=lambda changes: "-".join(changes.model_dump(exclude_defaults=True)),
)
def test_grey_images_change_as_each_of_three_equal_channels(changes: Augment) -> None:
    images, masks = batch()
    grey = images[..., :1] + 20
    changed, moved = augment(grey, masks, changes, generator())
    coloured, also = augment(grey.expand(-1, -1, -1, 3), masks, changes, generator())
    assert torch.equal(changed, coloured[..., :1])
    assert torch.equal(moved, also)
    assert not torch.equal(changed, grey)


@pytest.mark.parametrize(
    "changes",
    [
        Augment(erase=0.9),
        Augment(policy=RandAugment(name="rand_augment", operations=5)),
        Augment(policy=TrivialAugment(name="trivial_augment")),
    ],
    ids=["erase", "rand_augment", "trivial_augment"],
)
def test_grey_images_stay_of_one_channel(changes: Augment) -> None:
    grey = (torch.arange(32 * 400) % 251).to(torch.uint8).view(32, 20, 20, 1)
    changed, _ = augment(grey, torch.zeros(32), changes, generator())
    assert changed.shape == grey.shape
    assert changed.dtype == torch.uint8
    assert not torch.equal(changed, grey)


@pytest.mark.parametrize(
    "changes",
    [
        Augment(shift=3),
        Augment(flip=True),
        Augment(vertical_flip=True),
        Augment(quarter_turns=True),
        Augment(padding_crop=PaddingCrop(pixels=4, mode="reflect")),
        Augment(padding_crop=PaddingCrop(pixels=4, mode="edge"), flip=True),
    ],
)
def test_masks_follow_exactly_where_pixels_move_whole(changes: Augment) -> None:
    images, masks = augment(*batch(), changes, generator())
    assert torch.equal(images[..., 0], masks * 40)
    assert not torch.equal(masks, batch()[1])


@pytest.mark.parametrize(
    "changes",
    [
        Augment(rotate=30, scale=0.2),
        Augment(shear=20),
        Augment(random_resized_crop=RandomResizedCrop(area=(0.5, 1.0)), flip=True),
    ],
)
def test_masks_follow_up_to_the_blurred_border(changes: Augment) -> None:
    images, masks = augment(*batch(), changes, generator())
    assert masks.unique().tolist() == [0, 1, 2]
    assert (images[..., 0] == masks * 40).float().mean() > 0.8
    assert not torch.equal(masks, batch()[1])


def test_flips_and_shifts_keep_pixels_and_repeat_the_edge() -> None:
    images = torch.randint(0, 256, (40, 5, 9, 3), dtype=torch.uint8, generator=generator())
    changes = Augment(flip=True, vertical_flip=True, shift=2)
    changed, _ = augment(images, torch.zeros(40), changes, generator())
    seen = set()
    for before, after in zip(images.numpy(), changed.numpy(), strict=True):
        wide = np.pad(before, ((2, 2), (2, 2), (0, 0)), mode="edge")
        forms = {
            (top, left, up, side): wide[top : top + 5, left : left + 9][::up, ::side]
            for top, left, up, side in itertools.product(range(5), range(5), (1, -1), (1, -1))
        }
        [form] = [key for key, pixels in forms.items() if np.array_equal(pixels, after)]
        seen.add(form)
    assert len(seen) > 20


def test_padding_crop_moves_whole_pixels_over_black() -> None:
    images = torch.full((64, 6, 8, 3), 9, dtype=torch.uint8)
    changed, _ = augment(
        images, torch.zeros(64), Augment(padding_crop=PaddingCrop(pixels=2)), generator()
    )
    assert changed.unique().tolist() == [0, 9]
    rows = (changed[..., 0] == 9).any(dim=2).sum(dim=1)
    columns = (changed[..., 0] == 9).any(dim=1).sum(dim=1)
    assert sorted(rows.unique().tolist()) == [4, 5, 6]
    assert sorted(columns.unique().tolist()) == [6, 7, 8]


def test_random_resized_crop_shows_a_part_of_the_drawn_size() -> None:
    """A ramp from left to right: what is left of its range is the width of the window."""
    ramp = torch.arange(100, dtype=torch.uint8).view(1, 1, 100, 1).expand(200, 100, 100, 3)
    crop = RandomResizedCrop(area=(0.25, 0.25), ratio=(1.0, 1.0))
    cut, _ = augment(ramp, torch.zeros(200), Augment(random_resized_crop=crop), generator())
    first, last = cut[:, 50, 0, 0].int(), cut[:, 50, -1, 0].int()
    assert ((last - first - 50).abs() <= 1).all()
    assert first.min() < 5
    assert last.max() > 94


def test_rotation_keeps_the_shape_of_oblong_images() -> None:
    images = torch.zeros(16, 20, 60, 3, dtype=torch.uint8)
    images[:, 6:14, 26:34] = 255
    turned, _ = augment(images, torch.zeros(16), Augment(rotate=90), generator())
    areas = (turned[..., 0] > 127).float().sum(dim=(1, 2))
    assert torch.allclose(areas, torch.tensor(64.0), atol=6)


def test_labels_are_left_alone() -> None:
    labels = torch.arange(8)
    _, kept = augment(batch()[0], labels, Augment(shift=2, flip=True), generator())
    assert torch.equal(kept, labels)


def test_brightness_stays_within_its_bound() -> None:
    images = torch.full((64, 4, 4, 3), 100, dtype=torch.uint8)
    changed, _ = augment(images, torch.zeros(64), Augment(brightness=0.2), generator())
    assert changed.min() >= 80
    assert changed.max() <= 120
    assert changed.unique().numel() > 5


def photographs() -> Tensor:
    images = torch.randint(256, (12, 24, 32, 3), generator=generator(7), dtype=torch.uint8)
    # Neighbours alike, as in a photograph.
    return vision.gaussian_blur(images.permute(0, 3, 1, 2), [7, 7]).permute(0, 2, 3, 1)


def test_saturation_blends_with_grey() -> None:
    images = photographs()
    changed, _ = augment(images, torch.zeros(12), Augment(saturation=1.0), generator())
    for image, found in zip(images, changed, strict=True):
        chroma, before = (x.float().std(dim=2).mean() for x in (found, image))
        factor = float(chroma / before)
        assert 0 <= factor <= 2.05
        expected = vision.adjust_saturation(image.permute(2, 0, 1), factor).permute(1, 2, 0)
        assert (found.int() - expected.int()).abs().max() <= 4


def test_hue_turns_colours_and_keeps_brightness_and_grey() -> None:
    images = photographs()
    changed, _ = augment(images, torch.zeros(12), Augment(hue=0.1), generator())
    luma = torch.tensor([0.299, 0.587, 0.114])
    assert ((changed.float() @ luma) - (images.float() @ luma)).abs().max() < 1.5
    assert not torch.equal(changed, images)
    grey = images[..., :1].expand(-1, -1, -1, 3)
    assert torch.equal(augment(grey, torch.zeros(12), Augment(hue=0.5), generator())[0], grey)


def test_blur_takes_half_of_the_images_and_keeps_their_mean() -> None:
    images = torch.zeros(64, 33, 33, 3, dtype=torch.uint8)
    images[:, 12:21, 12:21] = 200
    changed, _ = augment(images, torch.zeros(64), Augment(blur=2.0), generator())
    touched = (changed != images).flatten(1).any(dim=1)
    assert 15 <= int(touched.sum()) <= 49
    means = changed.float().mean(dim=(1, 2, 3))
    assert torch.allclose(means, images.float().mean(dim=(1, 2, 3)), rtol=0.02)
    assert changed[touched].flatten(1).float().std(dim=1).max() < images[0].float().std()


def test_blur_is_that_of_torchvision_for_the_same_sigma() -> None:
    images = photographs()[:1].expand(16, -1, -1, -1)
    changed, _ = augment(images, torch.zeros(16), Augment(blur=0.1), generator())
    # With a bound under the smallest sigma there is nothing left to draw.
    assert torch.equal(changed, images)
    changed, _ = augment(images, torch.zeros(16), Augment(blur=1.0), generator(3))
    blurred = changed[(changed != images).flatten(1).any(dim=1)][0]
    nearest = min(
        float((vision.gaussian_blur(images[0].permute(2, 0, 1), [7, 7], [s / 100, s / 100])
               .permute(1, 2, 0).float() - blurred.float()).abs().max())
        for s in range(10, 101)
    )  # fmt: skip
    assert nearest <= 2


def test_erasing_fills_one_rectangle_of_a_bounded_size() -> None:
    images = torch.zeros(200, 40, 50, 3, dtype=torch.uint8)
    changed, _ = augment(images, torch.zeros(200), Augment(erase=0.5), generator())
    touched = changed.float().sum(dim=3) > 0
    erased = touched.flatten(1).any(dim=1)
    assert 70 <= int(erased.sum()) <= 130
    for box in touched[erased]:
        rows, columns = box.any(dim=1).sum(), box.any(dim=0).sum()
        assert 0.01 < float(rows * columns) / 2000 < 0.36
        assert box.sum() >= 0.95 * rows * columns


@pytest.mark.parametrize(
    "policy", [RandAugment(name="rand_augment"), TrivialAugment(name="trivial_augment")]
)
def test_policy_changes_images_and_leaves_the_global_generator_alone(
    policy: RandAugment | TrivialAugment,
) -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    changed, _ = augment(photographs(), torch.zeros(12), Augment(policy=policy), generator())
    assert (changed != photographs()).flatten(1).any(dim=1).sum() > 4
    assert changed.dtype == torch.uint8
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("policy", "alone", "draws"),
    [
        (RandAugment(name="rand_augment", operations=1), v2.RandAugment(num_ops=1), 500),
        (TrivialAugment(name="trivial_augment"), v2.TrivialAugmentWide(), 8000),
    ],
    ids=["rand_augment", "trivial_augment"],
)
def test_policy_gives_each_image_of_a_batch_a_change_of_torchvisions(
    policy: RandAugment | TrivialAugment, alone: v2.Transform, draws: int
) -> None:
    images = photographs()[:3, ::2, ::2].contiguous()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        known = [
            {alone(image.permute(2, 0, 1)).numpy().tobytes() for _ in range(draws)}
            for image in images
        ]
    draw = generator()
    # Of 15 images each has a draw of its own, of 150 some share theirs.
    for repeated, batches, different in ((5, 10, 45), (50, 1, 20)):
        batch = images.repeat(repeated, 1, 1, 1)
        found = [
            one.permute(2, 0, 1).contiguous().numpy().tobytes()
            for _ in range(batches)
            for one in augment(batch, torch.zeros(len(batch)), Augment(policy=policy), draw)[0]
        ]
        for number, one in enumerate(found):
            assert one in known[number % 3]
        assert len(set(found)) > different


EVERYTHING = Augment(
    policy=RandAugment(name="rand_augment"),
    random_resized_crop=RandomResizedCrop(),
    padding_crop=PaddingCrop(pixels=2),
    shift=3,
    rotate=10,
    shear=5,
    scale=0.1,
    flip=True,
    vertical_flip=True,
    brightness=0.1,
    contrast=0.1,
    saturation=0.3,
    hue=0.1,
    blur=1.0,
    erase=0.5,
)


def test_same_generator_same_change() -> None:
    first, _ = augment(*batch(), EVERYTHING, generator(1))
    again, _ = augment(*batch(), EVERYTHING, generator(1))
    other, _ = augment(*batch(), EVERYTHING, generator(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_pixels_do_not_depend_on_the_precision_of_training() -> None:
    plain, _ = augment(*batch(), EVERYTHING, generator())
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = augment(*batch(), EVERYTHING, generator())
    assert torch.equal(mixed, plain)


@pytest.mark.parametrize(
    ("augmented", "expected"),
    [
        ({"policy": {"name": "rand_augment"}}, "moves images without their masks"),
        ({"padding_crop": {"pixels": 4}}, "adds pixels that have no class; choose edge or reflect"),
        ({"random_resized_crop": {"area": [0.9, 0.1]}}, "expected the smaller bound first"),
    ],
)
def test_what_masks_cannot_follow_is_refused(augmented: dict[str, object], expected: str) -> None:
    document = {
        "name": "tiny",
        "task": "segmentation",
        "data": {"source": "connectors"},
        "transform": {"resize": [32, 32]},
        "augment": augmented,
        "model": {"name": "unet_vgg16_bn"},
        "train": {"epochs": 1, "batch_size": 8, "optimizer": {"name": "sgd", "lr": 0.1}},
    }
    with pytest.raises(RecipeError, match=expected):
        parse_recipe(document)
