"""Augmentations of photos do what torchvision's of the same name do, for the same draw, and draw as those draw."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from data.augment import batch as A
from data.augment import boxes, photo
from data.augment.batch import Augment, integers, parse, uniform
from tests.test_augment import FILL, noise

SIZES = [(24, 32), (32, 24), (31, 31)]
MANY = 20_000


def augmented(spec: str, images: Tensor) -> Tensor:
    channels = images.shape[-1]
    return Augment(parse(spec), 5, 1000, FILL[:channels])(images, torch.arange(len(images)), 2)


def drawn(stream: int, n: int) -> tuple:
    return 5, 2, torch.arange(n), stream


def each(images: Tensor, *arguments: list, of: object) -> Tensor:
    """torchvision's function on one image after another, uint8 (B, H, W, C)."""
    rows = zip(images.permute(0, 3, 1, 2), *arguments, strict=True)
    return torch.stack([of(*row) for row in rows]).permute(0, 2, 3, 1)


def difference(ours: Tensor, theirs: Tensor) -> Tensor:
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == torch.uint8
    return (ours.int() - theirs.int()).abs()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_a_random_resized_crop_is_torchvisions_of_its_box(size: tuple[int, int], channels: int) -> None:
    images = noise(200, *size, channels)
    seed, epoch, indices, stream = drawn(A.FIRST_CROP, 200)
    found = boxes.RandomCrop(seed, stream, 0.1, 1.5).boxes(size, indices, epoch)
    theirs = each(
        images,
        *(side.tolist() for side in found),
        of=lambda image, *box: reference.resized_crop(image, *box, list(size), antialias=True),
    )
    assert difference(augmented("rrc=0.1:1.5", images), theirs).max() <= 1


@pytest.mark.parametrize(("size", "area", "ratio"), [((40, 60), 0.08, 4 / 3), ((64, 16), 0.5, 1.2), ((50, 50), 0.9, 3)])
def test_boxes_to_crop_are_distributed_as_torchvisions(size: tuple[int, int], area: float, ratio: float) -> None:
    seed, epoch, indices, stream = drawn(0, MANY)
    crop = boxes.RandomCrop(seed, stream, area, ratio)
    ours = torch.stack(crop.boxes(size, indices, epoch), 1)
    of_each = [torch.full((MANY,), side) for side in size]
    assert torch.equal(torch.stack(crop.boxes(of_each, indices, epoch), 1), ours)
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(8, (area, 1), (1 / ratio, ratio))
    image = torch.zeros(1, *size)
    theirs = torch.tensor([[*transform.make_params([image]).values()] for _ in range(MANY // 4)])
    for column in range(4):
        one, other = ours[:, column].double(), theirs[:, column].double()
        for share in (0.05, 0.25, 0.5, 0.75, 0.95):
            # A quantile's rank has the spread of a binomial share; a rank is looked up in the other's, ties and all.
            value = other.quantile(share)
            below, upto = (one < value).double().mean(), (one <= value).double().mean()
            assert below - 0.03 <= share <= upto + 0.03, (column, share)
    assert (ours[:, :2] >= 0).all() and (ours[:, 0] + ours[:, 2] <= size[0]).all()
    assert (ours[:, 1] + ours[:, 3] <= size[1]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_rotation_is_torchvisions(channels: int) -> None:
    images = noise(100, 24, 32, channels)
    steps = integers(*drawn(A.ANGLE, 100), 2 * photo.STEPS + 1) - photo.STEPS
    angles = (steps.double() * 40 / photo.STEPS).tolist()
    fill = list(map(float, FILL[:channels]))
    theirs = each(images, angles, of=lambda image, angle: reference.rotate(image, angle, fill=fill))
    same = (difference(augmented("rotate=40", images), theirs) == 0).float()
    assert same.mean() >= 0.99  # where a source lies just between two pixels, either is right
    assert min(angles) < -35 and max(angles) > 35


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_is_torchvisions_jitter_in_each_images_own_order(channels: int) -> None:
    images = noise(60, 12, 14, channels)
    most = {"Brightness": 0.4, "Contrast": 0.3, "Color": 0.9, "Hue": 0.2}
    functions = {
        "Brightness": lambda image, change: reference.adjust_brightness(image, 1 + change),
        "Contrast": lambda image, change: reference.adjust_contrast(image, 1 + change),
        "Color": lambda image, change: reference.adjust_saturation(image, 1 + change),
        "Hue": reference.adjust_hue,
    }
    orders = list(itertools.permutations(photo.COLORS))
    order = [orders[number] for number in integers(*drawn(A.COLOR_ORDER, 60), len(orders)).tolist()]
    changes = {
        name: ((2 * uniform(*drawn(A.FIRST_COLOR + number, 60)) - 1) * most[name]).tolist()
        for number, name in enumerate(photo.COLORS)
    }
    theirs = images.permute(0, 3, 1, 2).clone()
    for row, image in enumerate(theirs):
        for name in order[row]:
            image.copy_(functions[name](image.clone(), changes[name][row]))
    ours = augmented("color=" + ":".join(map(str, most.values())), images)
    apart = difference(ours, theirs.permute(0, 2, 3, 1))
    # A level of one operation may be a few of the next: contrast and saturation multiply differences.
    assert (apart <= 2).float().mean() >= 0.99 and apart.max() <= 8
    assert len(set(order)) > 15


@pytest.mark.parametrize("name", photo.COLORS)
def test_each_property_of_colour_is_torchvisions(name: str) -> None:
    functions = {
        "Brightness": reference.adjust_brightness,
        "Contrast": reference.adjust_contrast,
        "Color": reference.adjust_saturation,
        "Hue": reference.adjust_hue,
    }
    images = noise(41, 12, 14, 3)
    changes = torch.linspace(-0.5, 0.5, 41)
    amounts = (changes if name == "Hue" else 1 + changes).tolist()
    theirs = each(images, amounts, of=lambda image, amount: functions[name](image, amount))
    apart = difference(photo.adjust(images, name, changes), theirs)
    assert apart.max() <= 1 and (apart == 0).float().mean() >= (0.5 if name == "Hue" else 0.99)


def test_grey_is_torchvisions_for_the_share_that_is_asked_for() -> None:
    images = noise(400, 6, 7, 3)
    chosen = uniform(*drawn(A.GREY, 400)) < 0.3
    ours = augmented("grayscale=0.3", images)
    theirs = each(images, of=lambda image: reference.rgb_to_grayscale(image, 3))
    assert difference(ours[chosen], theirs[chosen]).max() <= 1 and torch.equal(ours[~chosen], images[~chosen])
    assert chosen.float().mean().item() == pytest.approx(0.3, abs=0.08)


@pytest.mark.parametrize("size", [(24, 32), (100, 90), (3, 5)])
def test_blur_is_torchvisions_gaussian_of_the_drawn_width(size: tuple[int, int]) -> None:
    images = noise(60, *size, 3)
    chosen = uniform(*drawn(A.BLUR, 60)) < 0.5
    steps = integers(*drawn(A.BLUR_WIDTH, 60), photo.STEPS + 1)
    low, high = photo.SIGMA
    sigmas = (low + (high - low) * steps.double() / photo.STEPS).tolist()
    kernel = 2 * max(1, round(min(size) / 20)) + 1
    theirs = each(images, sigmas, of=lambda image, sigma: reference.gaussian_blur(image, [kernel] * 2, [sigma] * 2))
    ours = augmented("blur=0.5", images)
    assert difference(ours[chosen], theirs[chosen]).max() <= 1 and torch.equal(ours[~chosen], images[~chosen])
    assert 15 < chosen.sum() < 45


def test_erasing_fills_one_rectangle_of_torchvisions_sizes() -> None:
    size, images = (40, 30), torch.full((MANY // 4, 40, 30, 3), 7, dtype=torch.uint8)
    erased = (augmented("erase=0.5", images) == torch.tensor(FILL, dtype=torch.uint8)).all(-1)
    assert ((augmented("erase=0.5", images) == 7).all(-1) == ~erased).all()
    rows, columns = erased.any(2).sum(1), erased.any(1).sum(1)
    assert torch.equal(erased.sum((1, 2)), rows * columns)
    area = (rows * columns).double()[rows > 0] / math.prod(size)
    assert (rows > 0).double().mean().item() == pytest.approx(0.5, abs=0.03)
    torch.manual_seed(0)
    transform = v2.RandomErasing(1.0)
    image = torch.zeros(3, *size)
    theirs = [transform.make_params([image]) for _ in range(MANY // 8)]
    of_theirs = torch.tensor([one["h"] * one["w"] for one in theirs if one["v"] is not None]).double() / math.prod(size)
    for share in (0.1, 0.5, 0.9):
        assert area.quantile(share).item() == pytest.approx(of_theirs.quantile(share).item(), abs=0.02)
    assert erased.double().mean(0).min() > 0  # each pixel in some image


def test_vflip_turns_its_share_upside_down() -> None:
    images = noise(300, 9, 14, 3)
    flipped = uniform(*drawn(A.VFLIP, 300)) < 0.3
    assert torch.equal(augmented("vflip=0.3", images), torch.where(flipped.view(-1, 1, 1, 1), images.flip(1), images))
