"""Augmentation: a sample's is its own, drawn evenly, and does what the papers and torchvision say."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from data.augment import batch as A
from data.augment import randaugment
from data.augment.batch import Augment, integers, parse, uniform

DEVICES = ["cpu"] + [kind for kind in ("cuda", "xpu") if getattr(torch, kind).is_available()]
IMAGE_SPECS = [
    "flip",
    "altflip",
    "crop=5",
    "cutout=7",
    "randaugment=2:17",
    "trivialaugment",
    "augmix",
    "augmix=10:4:2:0.3",
    "flip,crop,randaugment,cutout",
    "vflip",
    "rrc=0.2:2",
    "rotate=40",
    "color",
    "grayscale=0.5",
    "blur=0.5",
    "erase=0.5",
    "rrc,flip,vflip,rotate,trivialaugment,color,grayscale,blur,cutout,erase",
]
MIX_SPECS = ["mixup", "cutmix", "mixup,cutmix"]
FILL = (120, 80, 200)
SPACES = {
    "RandAugment": randaugment.RANDAUGMENT,
    "TrivialAugmentWide": randaugment.TRIVIALAUGMENT,
    "AugMix": randaugment.AUGMIX,
}


def noise(batch: int, height: int, width: int, channels: int) -> Tensor:
    """Random images that leave room at both ends of 0..255; the first is of one colour."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(30, 220, (batch, height, width, channels), generator=generator, dtype=torch.uint8)
    images[0] = 77
    return images


@pytest.mark.parametrize("device", DEVICES)
def test_draws_are_the_same_bits_as_python_integers_give(device):
    def reference(*numbers: int) -> float:
        mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15
        x = golden
        for number in numbers:
            x = (x ^ (number & mask)) * golden & mask
            x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
            x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
            x ^= x >> 31
        return (x >> 40) / 2**24

    indices = torch.tensor([0, 1, 2, 49_999, 2**40, 2**63 - 1], device=device)
    for seed, epoch, stream in [(0, 0, 0), (1, 0, 7), (-3, 200, 1), (2**62, 3, 140)]:
        drawn = uniform(seed, epoch, indices, stream)
        assert drawn.dtype == torch.float32 and drawn.device == indices.device
        assert drawn.tolist() == [reference(seed, epoch, stream, index) for index in indices.tolist()]
        of_several = uniform(seed, epoch, indices, (stream + 5, stream))
        assert torch.equal(of_several, torch.stack([uniform(seed, epoch, indices, stream + 5), drawn]))


@pytest.mark.parametrize("seed, epoch, stream", [(0, 0, 0), (0, 1, 0), (1, 0, 3), (123, 77, 101)])
def test_draws_are_uniform(seed, epoch, stream):
    n = 2**16
    u = uniform(seed, epoch, torch.arange(n), stream).double()
    counts = torch.histc(u, 16, 0, 1)
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 1 / 2) < 5 * (1 / 12 / n) ** 0.5
    assert abs(u.var() - 1 / 12) < 5 * (1 / 180 / n) ** 0.5
    assert ((counts - n / 16) ** 2 / (n / 16)).sum() < 45  # chi-square of 15 degrees: exceeded once in 10,000


def test_neighbouring_indices_epochs_streams_and_seeds_are_unrelated():
    n = 2**16
    indices = torch.arange(n)
    base = uniform(0, 0, indices, 0)
    others = [uniform(0, 0, indices + shift, 0) for shift in (1, 2, 32, 1024)]
    others += [uniform(0, 1, indices, 0), uniform(0, 0, indices, 1), uniform(1, 0, indices, 0)]
    others += [uniform(0, 1, indices + 1, 0), uniform(1, 1, indices, 0)]
    correlations = torch.corrcoef(torch.stack([base, *others]).double())[0, 1:]
    assert correlations.abs().max() < 5 / n**0.5
    assert all((base == other).float().mean() < 1e-3 for other in others)


def test_integers_take_every_value_equally_often():
    counts = integers(0, 0, torch.arange(90_000), 0, 9).bincount()
    assert len(counts) == 9 and ((counts - 10_000) ** 2 / 10_000).sum() < 32


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spec", IMAGE_SPECS)
def test_a_samples_augmentation_does_not_depend_on_its_batch(spec, channels):
    images, indices = noise(64, 17, 23, channels), torch.arange(1000, 1064)
    before, order = images.clone(), torch.randperm(64)
    augment = Augment(parse(spec), seed=1, num_samples=5000, fill=FILL[:channels])
    whole = augment(images, indices, 3)
    again = Augment(parse(spec), seed=1, num_samples=5000, fill=FILL[:channels])
    split = [again(*part, 3) for part in zip(images.split([1, 7, 56]), indices.split([1, 7, 56]), strict=True)]
    assert torch.equal(images, before) and whole.dtype == torch.uint8 and whole.is_contiguous()
    assert torch.equal(whole, torch.cat(split))
    assert torch.equal(whole[order], augment(images[order], indices[order], 3))
    assert augment(images[:0], indices[:0], 3).shape == (0, 17, 23, channels)


@pytest.mark.parametrize("spec", MIX_SPECS)
def test_a_samples_mixing_does_not_depend_on_its_batch(spec):
    indices, targets = torch.arange(64), one_hot(torch.arange(64) % 10).float()
    images = torch.randn(64, 3, 17, 23)
    augment = Augment(parse(spec), seed=1, num_samples=5000)
    inputs = (images, images.flip(0), targets, targets.flip(0), indices)
    whole = augment.mix(*inputs, 3)
    parts = zip(*(tensor.split([1, 7, 56]) for tensor in inputs), strict=True)
    split = [torch.cat(tensors) for tensors in zip(*(augment.mix(*part, 3) for part in parts), strict=True)]
    assert torch.equal(whole[0], split[0]) and torch.equal(whole[1], split[1])
    assert torch.equal(augment.partners(indices, 3)[8:], augment.partners(indices[8:], 3))


@pytest.mark.parametrize("spec", IMAGE_SPECS)
def test_another_epoch_seed_or_index_gives_another_draw(spec):
    images, indices = noise(64, 16, 16, 3), torch.arange(64)
    first = Augment(parse(spec), 1, 5000)(images, indices, 3)
    for seed, epoch, shift in [(1, 4, 0), (2, 3, 0), (1, 3, 64)]:
        other = Augment(parse(spec), seed, 5000)(images, indices + shift, epoch)
        assert (first != other).flatten(1).any(1).sum() > 16


@pytest.mark.parametrize("channels", [1, 3])
def test_crop_with_flip_equals_pad_slice_and_flip(channels):
    images, indices = noise(200, 9, 14, channels), torch.arange(200)
    augmented = Augment(parse("flip=0.3,crop=8"), 0, 200)(images, indices, 0)
    padded = pad(images.permute(0, 3, 1, 2).float(), (8, 8, 8, 8), mode="reflect").byte().permute(0, 2, 3, 1)
    tops, lefts = (integers(0, 0, indices, stream, 17).tolist() for stream in (A.CROP_Y, A.CROP_X))
    flipped = uniform(0, 0, indices, A.FLIP) < 0.3
    for image, source, top, left, flip in zip(augmented, padded, tops, lefts, flipped, strict=True):
        expected = source[top : top + 9, left : left + 14]
        assert torch.equal(image, expected.flip(1) if flip else expected)
    assert {*tops} == {*lefts} == {*range(17)} and 0.2 < flipped.float().mean() < 0.4


def test_cutout_fills_one_clipped_square_and_leaves_the_rest():
    images, indices = noise(500, 12, 20, 3), torch.arange(500)
    cut = Augment(parse("cutout=5"), 0, 500, fill=FILL)(images, indices, 0)
    filled = (cut == torch.tensor(FILL, dtype=torch.uint8)).all(-1)
    assert torch.equal(cut[~filled], images[~filled])
    rows, columns = filled.any(2).sum(1), filled.any(1).sum(1)
    assert torch.equal(filled.sum((1, 2)), rows * columns)
    assert {*rows.tolist()} == {*columns.tolist()} == {3, 4, 5}
    assert filled.any(0).all()  # each pixel is cut out of some image


def test_images_too_small_or_of_another_kind_are_refused_in_words():
    augment = Augment(parse("crop=4"), 0, 10)
    with pytest.raises(ValueError, match="crop=4 reflects 4 pixels, and an image of 4 x 32"):
        augment(noise(1, 4, 32, 3), torch.arange(1), 0)
    with pytest.raises(ValueError, match=r"uint8 \(B, H, W, 1 or 3\)"):
        augment(torch.zeros(1, 3, 32, 32), torch.arange(1), 0)
    with pytest.raises(ValueError, match="fill has 3 numbers"):
        Augment({}, 0, 10, fill=FILL)(noise(1, 4, 4, 1), torch.arange(1), 0)


@pytest.mark.parametrize(
    "spec",
    [
        "flip",
        "cutout",
        "randaugment=3:30",
        "trivialaugment",
        "augmix",
        "rrc,vflip,rotate,color,grayscale,blur=1,erase=1",
    ],
)
def test_an_image_of_one_pixel_is_augmented(spec):
    images = noise(300, 1, 1, 3)
    assert Augment(parse(spec), 0, 10)(images, torch.arange(300), 0).shape == images.shape


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", SPACES)
@pytest.mark.parametrize("op", randaugment.OPS)
def test_each_operation_does_what_torchvisions_does_at_every_magnitude(op, policy, channels):
    from torchvision.transforms import v2

    reference, space = getattr(v2, policy)(fill=list(FILL[:channels])), SPACES[policy]
    assert {*reference._AUGMENTATION_SPACE, "Identity"} == {*randaugment.OPS}
    count = space.bins + 1
    images = noise(2 * count, 24, 32, channels)
    bins, signs = torch.arange(count).repeat(2), torch.tensor([1, -1]).repeat_interleave(count)
    fill = torch.tensor(FILL[:channels], dtype=torch.uint8)
    ours = randaugment.apply_op(op, images, bins, signs, space, fill)

    magnitudes, signed = reference._AUGMENTATION_SPACE.get(op, (lambda *size: None, False))  # AugMix's has no Identity
    table = magnitudes(count, 24, 32)
    if table is None:
        table = torch.zeros(count)
    elif table.is_floating_point():  # in float32 some whole numbers fall short: 15.999999, which is cut to 15
        table = torch.linspace(table[0], table[-1], count, dtype=torch.float64)
    levels = table[bins] * (signs if signed else 1)
    theirs = torch.stack(
        [
            reference._apply_image_or_video_transform(image, op, level, "nearest", reference._fill)
            for image, level in zip(images.permute(0, 3, 1, 2), levels.tolist(), strict=True)
        ]
    ).permute(0, 2, 3, 1)

    difference = (ours.int() - theirs.int()).abs()
    same = (difference == 0).float().mean((1, 2, 3))
    if op in ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"):
        # Where a source lies just between two pixels, as in a shear of 0.2, either is right.
        assert same.mean() >= 0.99 and same.min() >= 0.9
    elif op in ("Brightness", "Color", "Contrast", "Sharpness"):
        # Factors of whole tenths, as AugMix has them, make whole levels, of which either way of rounding loses some.
        assert same.mean() >= 0.98 and difference.max() <= 1
    else:
        assert difference.max() == 0


def test_every_sample_gets_its_own_operation():
    images, ops = noise(70, 10, 11, 3), torch.arange(70) % 14
    bins, signs, fill = (
        torch.arange(70) % 31,
        torch.ones(70, dtype=torch.int64),
        torch.zeros(1, dtype=torch.uint8),
    )
    together = randaugment.apply_ops(images, ops, bins, signs, randaugment.TRIVIALAUGMENT, fill)
    for i, image in enumerate(together):
        one, op = slice(i, i + 1), randaugment.OPS[i % 14]
        alone = randaugment.apply_op(op, images[one], bins[one], signs[one], randaugment.TRIVIALAUGMENT, fill)
        assert torch.equal(image, alone[0])


def mixed_ones_with_zeros(spec: str, batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Images and targets of 1 with partners of 0: what is left of an image, and of its target."""
    images, targets = torch.ones(batch, 1, height, width), torch.ones(batch, 1)
    augment = Augment(parse(spec), 0, batch)
    mixed, shares = augment.mix(images, 0 * images, targets, 0 * targets, torch.arange(batch), 0)
    return mixed[:, 0], shares[:, 0]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_lambda_has_the_mean_and_variance_of_beta(alpha):
    mixed, shares = mixed_ones_with_zeros(f"mixup={alpha}", 40_000, 1, 1)
    assert torch.equal(mixed.flatten(), shares)
    assert shares.mean().item() == pytest.approx(0.5, abs=0.01)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_cutmix_targets_carry_the_true_pixel_share():
    mixed, shares = mixed_ones_with_zeros("cutmix", 2000, 12, 20)
    box = mixed == 0
    assert torch.equal(mixed, (~box).float())
    assert torch.equal(box.sum((1, 2)), box.any(2).sum(1) * box.any(1).sum(1))  # a rectangle
    torch.testing.assert_close(shares, mixed.mean((1, 2)))
    assert shares.max() == 1 and shares.min() < 0.3 and box.any(0).all()


def test_mixup_and_cutmix_share_the_samples_half_and_half():
    mixed, shares = mixed_ones_with_zeros("mixup,cutmix", 4000, 6, 6)
    torch.testing.assert_close(shares, mixed.mean((1, 2)))
    cuts = ((mixed == 0) | (mixed == 1)).all(2).all(1)
    assert cuts.float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_partners_are_any_sample_of_the_training_part():
    augment = Augment(parse("mixup"), 0, num_samples=100)
    counts = augment.partners(torch.arange(50_000), 0).bincount()
    assert augment.mixes and not Augment(parse("flip"), 0, 100).mixes
    assert len(counts) == 100 and ((counts - 500) ** 2 / 500).sum() < 160


def test_specs_are_read_with_their_defaults():
    assert parse("none") == parse("") == {}
    assert parse("mixup,cutmix=0.5") == {"mixup": (0.2,), "cutmix": (0.5,)}
    defaults = {"flip": (0.5,), "crop": (4,), "cutout": (8,), "randaugment": (2, 9), "cutmix": (1.0,)}
    assert parse(",".join(defaults)) == defaults
    assert parse(" trivialaugment, crop = 2") == {"trivialaugment": (), "crop": (2,)}
    assert parse("augmix") == {"augmix": (3, 3, -1, 1.0)} == parse("augmix=3:3:-1:1")
    assert parse("randaugment=1:30") == {"randaugment": (1, 30)}


@pytest.mark.parametrize(
    "spec, names",
    [
        (
            "zoom",
            "'zoom'; there are flip=0.5, altflip, .*rrc=0.08:1.333, .*augmix=3:3:-1:1, mixup=0.2, cutmix=1",
        ),
        ("flip,,crop", "''"),
        ("none,flip", "'none'"),
        ("flip,crop,flip=0.1", "flip is named twice"),
        ("flip=often", "flip=often .*flip=0.5"),
        ("flip=1.5", "flip=1.5 .*0 to 1"),
        ("flip=nan", "flip=nan"),
        ("crop=", "crop= .*crop=4"),
        ("crop=2.5", "crop=2.5 .*whole"),
        ("cutout=-8", "cutout=-8"),
        ("cutout=8:8", "cutout=8:8"),
        ("randaugment=2:31", "randaugment=2:31 .*0 to 30"),
        ("randaugment=9", "randaugment=9 .*randaugment=2:9"),
        ("trivialaugment=3", "trivialaugment takes no strength"),
        ("mixup=0", "mixup=0 "),
        ("cutmix=inf", "cutmix=inf "),
        ("randaugment,trivialaugment", "randaugment and trivialaugment"),
        ("augmix,trivialaugment", "trivialaugment and augmix"),
        ("augmix=3:3:-1", "augmix=3:3:-1 .*severity : chains .*augmix=3:3:-1:1"),
        ("augmix=3:3:1.5:1", "augmix=3:3:1.5:1 .*whole 1 to 10 : whole 1 to 10 : whole -1 to 10 : 0.01 to 100"),
        ("augmix=11:3:-1:1", "augmix=11:3:-1:1 "),
        ("crop,rrc", "crop and rrc"),
        ("rrc=0.5", "rrc=0.5 .*least share of the area .*rrc=0.08:1.333"),
        ("rrc=0:1", "rrc=0:1 "),
        ("color=0.4:0.4:0.4:0.6", "0 to 0.5"),
    ],
)
def test_a_bad_spec_is_an_error_of_one_line_that_names_it(spec, names):
    with pytest.raises(ValueError, match=names) as error:
        parse(spec)
    assert "\n" not in str(error.value)


def test_reading_the_option_imports_no_torch():
    code = "import sys, data.augment.spec; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_altflip_shows_each_side_of_an_image_in_turn():
    images, indices = noise(64, 6, 6, 3), torch.arange(64)
    images[0] = noise(2, 6, 6, 3)[1]
    augment = Augment(parse("altflip"), seed=3, num_samples=64)
    epochs = [augment(images, indices, epoch) for epoch in range(4)]
    assert torch.equal(epochs[0], epochs[2]) and torch.equal(epochs[1], epochs[3])
    assert torch.equal(epochs[1], epochs[0].flip(2))
    flipped = sum(torch.equal(image, other.flip(1)) for image, other in zip(epochs[0], images, strict=True))
    assert 16 < flipped < 48


def test_jitter_is_even_within_its_strength_and_of_each_sample():
    indices = torch.arange(4096)
    shift, factor = Augment(parse("jitter=0.2"), seed=1, num_samples=4096).jitter(indices, 5)
    for drawn in (shift.flatten(), factor.flatten() - 1):
        assert drawn.abs().max() <= 0.2
        assert abs(drawn.mean()) < 0.01 and abs(drawn.std() - 0.2 / 3**0.5) < 0.005
    assert abs(torch.corrcoef(torch.stack([shift.flatten(), factor.flatten()]))[0, 1]) < 0.05
    again, _ = Augment(parse("jitter=0.2"), seed=1, num_samples=4096).jitter(indices[7:8], 5)
    assert torch.equal(again, shift[7:8])
    assert Augment(parse("flip"), seed=1, num_samples=4).jitter(indices, 0) is None
