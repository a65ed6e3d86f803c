"""Images as people have them: the readable give the right pixels, the rest is named before anything else happens."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from common.errors import UserError
from data.dataset import load_images
from data.decode import MAX_PIXELS, UNREADABLE, complaint, is_grey, open_image, read_image, to_array, upright_size

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]


def decoded(path: Path, channels: int = 3, ranges: dict | None = None) -> np.ndarray:
    with open_image(path) as image:
        size = upright_size(image)
        pixels = to_array(image, channels, None, ranges)
    assert pixels.shape == (*size, channels) and pixels.dtype == np.uint8
    return pixels


@pytest.mark.filterwarnings("error")
def test_colour_modes_give_their_colours(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(COLOUR).save(path)
    assert np.array_equal(decoded(path), COLOUR)
    alpha = np.random.default_rng(1).integers(0, 256, (6, 10, 1), dtype=np.uint8)
    Image.fromarray(np.concatenate([COLOUR, alpha], axis=2)).save(path)
    assert np.array_equal(decoded(path), COLOUR)  # transparency is dropped
    palette = np.random.default_rng(2).integers(0, 256, (60, 3), dtype=np.uint8)
    picture = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10), mode="P")
    picture.putpalette(palette.tobytes())
    picture.save(path, transparency=bytes(range(60)))
    assert np.array_equal(decoded(path), palette.reshape(6, 10, 3))


def test_cmyk_is_mixed_as_ink(tmp_path):
    ink = np.random.default_rng(3).integers(0, 256, (6, 10, 4), dtype=np.uint8)
    Image.fromarray(ink, mode="CMYK").save(tmp_path / "a.tif")
    cyan_magenta_yellow, black = 255.0 - ink[..., :3], 255.0 - ink[..., 3:]
    assert np.abs(decoded(tmp_path / "a.tif") - cyan_magenta_yellow * black / 255).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, suffix):
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / f"a.{suffix}")
    with open_image(tmp_path / f"a.{suffix}") as image:
        assert image.mode.startswith("I") and is_grey(image)
    assert np.array_equal(decoded(tmp_path / f"a.{suffix}", channels=1)[..., 0], GREY)
    assert np.array_equal(decoded(tmp_path / f"a.{suffix}"), np.stack([GREY] * 3, axis=2))


def test_grey_modes_are_grey(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    Image.fromarray(np.stack([GREY, GREY], axis=2)).save(tmp_path / "alpha.png")
    Image.fromarray(GREY > 127).save(tmp_path / "bits.png")
    Image.fromarray(GREY.astype(np.int32) * 257).save(tmp_path / "long.tif")
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(GREY.astype(np.float32) / 255).save(tmp_path / "share.tif")
    ranges = {
        "long": {"integers": (0, 65535)},
        "float": {"floats": (0, 255)},
        "share": {"floats": (0, 1)},
    }
    for path in tmp_path.iterdir():
        with open_image(path) as image:
            assert is_grey(image), path
        expected = np.where(GREY > 127, 255, 0) if path.stem == "bits" else GREY
        assert np.array_equal(decoded(path, channels=1, ranges=ranges.get(path.stem))[..., 0], expected), path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_turned_photo_is_set_upright(tmp_path, suffix, orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    Image.fromarray(COLOUR).save(tmp_path / f"a.{suffix}", exif=tags)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / f"a.{suffix}")))
    by_hand = {1: COLOUR, 3: COLOUR[::-1, ::-1], 6: np.rot90(COLOUR, -1), 8: np.rot90(COLOUR)}
    assert np.array_equal(decoded(tmp_path / f"a.{suffix}"), expected)
    assert np.array_equal(expected, by_hand.get(orientation, expected))


def test_a_picture_fills_the_square_and_its_middle_is_kept(tmp_path):
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = 200
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", (20, 20, 3)).min() == 200
    assert read_image(tmp_path / "a.png", (10, 10, 1)).shape == (10, 10, 1)


def bomb() -> bytes:
    """A PNG of 67 bytes that says it holds 2,500 million pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)), (b"IDAT", b"x\x9c"), (b"IEND", b"")]
    written = [struct.pack(">I", len(data)) + kind + data for kind, data in chunks]
    sums = [struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body + check for body, check in zip(written, sums, strict=True))


def plant_bad(folder: Path) -> list[Path]:
    """Ten files that are no good, among the good ones in `folder`."""
    png, jpeg = (folder / "0.png").read_bytes(), folder / "good.jpg"
    Image.fromarray(COLOUR).resize((8, 8)).save(jpeg)
    content = {
        "truncated.png": png[: len(png) // 2],
        "truncated.jpg": jpeg.read_bytes()[:-150],
        "header.png": png[:20],
        "flipped.png": png[:60] + bytes(byte ^ 255 for byte in png[60:80]) + png[80:],
        "empty.png": b"",
        "words.jpg": b"this is no image at all\n" * 20,
        "zeros.png": bytes(1000),
        "page.webp": b"<!doctype html><title>404</title>",
        "bomb.png": bomb(),
    }
    for name, data in content.items():
        (folder / name).write_bytes(data)
    Image.new("1", (10_000, 9_000)).save(folder / "large.png")  # Pillow itself only warns of so few pixels
    return sorted([*(folder / name for name in content), folder / "large.png"])


def test_ten_bad_images_are_all_named_before_anything_is_cached(tree, own_cache, recwarn):
    root = tree("train/cat", "train/dog", "test/cat", "test/dog")
    bad = plant_bad(root / "train" / "cat")
    with pytest.raises(UserError) as caught:
        load_images(str(root))
    message = str(caught.value)
    assert message.startswith(f"{len(bad)} of the images cannot be read") and "--skip-bad-images" in message
    assert "\n" not in message and all(f"{path}: " in message for path in bad)
    assert "good.jpg" not in message and ".png: ;" not in message
    assert not list(own_cache.glob("*/*/"))
    assert not [warning for warning in recwarn if "DecompressionBomb" in str(warning.category)]


def test_skipping_leaves_out_exactly_the_bad_ones_and_a_later_refusal_still_knows(tree, own_cache):
    root = tree("train/cat", "train/dog", "test/cat", "test/dog")
    clean = load_images(str(root), val_fraction=0)
    bad = plant_bad(root / "train" / "cat")
    (root / "train" / "cat" / "good.jpg").unlink()
    for _ in range(2):  # decoded, then from the cache
        data = load_images(str(root), val_fraction=0, skip_bad_images=True)
        assert data.notes["bad_images_left_out"] == len(bad) == 10
        assert np.array_equal(data.train.arrays.images, clean.train.arrays.images)
        assert np.array_equal(data.train.arrays.labels, clean.train.arrays.labels)
        assert [line.split(": ")[0] for line in data.train.arrays.bad_images] == [str(path) for path in bad]
    with pytest.raises(UserError, match=r"10 of the images cannot be read.*empty\.png"):
        load_images(str(root), val_fraction=0)


def test_a_folder_of_nothing_but_bad_images_is_refused_either_way(tree, own_cache):
    root = tree("cat", "dog")
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"20 of the images cannot be read"):
        load_images(str(root))
    with pytest.raises(UserError, match=r"no training image is left of cat, dog"):
        load_images(str(root), skip_bad_images=True)


@pytest.mark.filterwarnings("ignore")
def test_damage_of_any_kind_is_an_error_that_is_expected(tmp_path):
    generator = np.random.default_rng(0)
    tags = Image.Exif()
    tags[0x0112] = 6
    outcomes = {True: 0, False: 0}
    kinds = {"png", "jpg", "gif", "webp", "bmp", "ppm", "tif", "avif"}  # the last one only where Pillow knows it
    for suffix in sorted(kind for kind in kinds if f".{kind}" in Image.registered_extensions()):
        Image.fromarray(COLOUR).save(tmp_path / f"a.{suffix}", **({"exif": tags} if suffix in ("png", "jpg") else {}))
        content = np.frombuffer((tmp_path / f"a.{suffix}").read_bytes(), dtype=np.uint8)
        for _ in range(60):
            damaged = content.copy()
            damaged[generator.integers(0, len(content), 3)] = generator.integers(0, 256, 3)
            try:
                with open_image({"bytes": damaged.tobytes(), "path": None}) as image:
                    if upright_size(image) in ((6, 10), (10, 6)):  # a damaged size may be large, which only costs time
                        to_array(image, 3, (6, 10))
                outcomes[True] += 1
            except UNREADABLE:
                outcomes[False] += 1
    assert min(outcomes.values()) > 50
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tif"])
@pytest.mark.parametrize("damage", ["", "cut short", "another beginning", "its beginning alone"])
def test_bytes_are_opened_as_from_a_file_whatever_they_begin_with(tmp_path, suffix, damage):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOUR).save(path)
    whole = path.read_bytes()
    damaged = {
        "": whole,
        "cut short": whole[: len(whole) // 2],
        "another beginning": b"RIFF" + whole[4:],
        "its beginning alone": whole[:8] + bytes(100),
    }
    path.write_bytes(damaged[damage])

    def told(encoded: dict) -> object:
        try:
            with open_image(encoded) as image:
                return image.format, to_array(image, 3, None).tolist()
        except UNREADABLE as error:
            return complaint(error)

    of_bytes = told({"bytes": path.read_bytes(), "path": None})
    assert of_bytes == told({"bytes": None, "path": str(path)})
    assert damage or isinstance(of_bytes, tuple)
