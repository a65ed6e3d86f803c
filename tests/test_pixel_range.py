"""Values of more than eight bits: one range for a whole data set, kept in best.pth; nothing is cut in silence."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train
from common.errors import UserError
from data.dataset import load_images
from data.decode import read_image
from engine.checkpoints import best_weights
from tasks.inference import read_images
from tests.conftest import fresh_process, predict, write_images

RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def write_pgm(path: Path, values: np.ndarray, largest: int = 65535) -> None:
    path.write_bytes(b"P5 8 8 %d\n" % largest + values.round().astype(">u2").tobytes())


def write_tiff(path: Path, values: np.ndarray) -> None:
    """A TIFF of any type of number, which Pillow itself cannot write of all."""
    height, width = values.shape
    form = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = [(256, width), (257, height), (258, 8 * values.itemsize), (259, 1), (262, 1), (273, 8), (277, 1)]
    tags += [(278, height), (279, values.nbytes), (339, form)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + values.nbytes)
    path.write_bytes(head + values.tobytes() + struct.pack("<H", len(tags)) + entries + bytes(4))


def tree_of(root: Path, dtype: type, low: float, high: float, splits: tuple[str, ...] = ("train", "test")) -> Path:
    """Ten images a class in each split, that of number i a ramp from `low` to i+1 tenths of the way to `high`."""
    for split in splits:
        for shift, name in enumerate("ab"):
            (root / split / name).mkdir(parents=True)
            for number in range(10):
                values = low + np.roll(RAMP, shift) * (high - low) * (number + 1) / 10
                write_tiff(root / split / name / f"{number}.tif", values.astype(dtype))
    return root


def as_read(path: Path) -> np.ndarray:
    """The values of a file of `write_tiff`, by its type alone."""
    content = path.read_bytes()
    tags = {tag: value for tag, _, _, value in struct.iter_unpack("<HHII", content[-4 - 120 : -4])}
    kind = {1: "u", 2: "i", 3: "f"}[tags[339]]
    return np.frombuffer(content[8:], dtype=f"<{kind}{tags[258] // 8}", count=64).reshape(8, 8)


TYPES = [
    (np.int32, 0, 255, (0, 255)),
    (np.int32, 0, 200, (0, 255)),
    (np.int32, 0, 4095, (0, 4095)),
    (np.int32, -1000, 3000, (-1000, 3000)),
    (np.uint32, 0, 4e9, (0, 4e9)),
    (np.int16, -32000, 32000, (-32000, 32000)),
    (np.int8, -100, 100, (-100, 100)),
    (np.float32, 0, 1, (0, 1)),
    (np.float32, 0, 0.5, (0, 1)),
    (np.float32, 0, 1.01, (0, 1.01)),
    (np.float32, -2.5, 2.5, (-2.5, 2.5)),
    (np.float32, 250, 310, (250, 310)),
]


@pytest.mark.parametrize("dtype, low, high, limits", TYPES)
def test_all_images_are_scaled_by_the_range_of_train(dtype, low, high, limits, tmp_path, own_cache):
    root = tree_of(tmp_path / "set", dtype, low, high)
    data = load_images(str(root), val_fraction=0)
    ((kind, found),) = data.ranges.items()
    assert kind == ("floats" if dtype is np.float32 else "integers") and found == pytest.approx(limits, rel=1e-6)
    for part, split in ((data.train, "train"), (data.test, "test")):
        for image, path in zip(part.arrays.images, sorted((root / split).rglob("*.tif")), strict=True):
            values = as_read(path).astype(np.float64)
            expected = ((values - found[0]) / (found[1] - found[0]) * 255).round()
            assert np.array_equal(image[..., 0], expected), path
            assert np.array_equal(read_image(path, data.shape, data.ranges), image)
    told = [remark for remark in data.remarks if "the least and most in train" in remark]
    assert bool(told) == (limits not in ((0, 255), (0, 1)))


@pytest.mark.parametrize("largest", [65535, 4095, 300])
def test_sixteen_bits_have_the_range_of_their_type_in_a_pgm_as_in_a_png(largest, tmp_path):
    for top in (0.1, 0.5, 1):
        values = (RAMP * top * largest).round()
        write_pgm(tmp_path / "a.pgm", values, largest)
        Image.fromarray((values * 65535 / largest).round().astype(np.uint16)).save(tmp_path / "a.png")
        of_pgm, of_png = (read_image(tmp_path / f"a.{suffix}", (8, 8, 1)) for suffix in ("pgm", "png"))
        assert np.abs(of_pgm.astype(int) - of_png).max() <= (largest < 65535)
        assert np.abs(of_pgm[..., 0] / 255 - values / largest).max() <= 1 / 255


def test_pixels_that_are_not_finite_are_named_like_bad_images(tmp_path, own_cache):
    root = tree_of(tmp_path / "set", np.float32, 0, 4)
    bad = [root / "train/a/3.tif", root / "train/b/9.tif", root / "test/b/0.tif"]
    for path, value in zip(bad, (np.nan, np.inf, -np.inf), strict=True):
        values = as_read(path).copy()
        values[2, 3] = value
        write_tiff(path, values)
    with pytest.raises(UserError, match="3 of the images cannot be read") as caught:
        load_images(str(root))
    assert all(f"{path}: 1 of its pixels are no finite numbers" in str(caught.value) for path in bad)
    data = load_images(str(root), skip_bad_images=True, val_fraction=0)
    assert (len(data.train), len(data.test), data.notes["bad_images_left_out"]) == (18, 19, 3)
    assert data.ranges == {"floats": (0, 4)}  # of those that are good


def test_values_beyond_the_range_of_train_are_cut_and_counted(tmp_path, own_cache):
    root = tree_of(tmp_path / "set", np.float32, -1, 3)
    for number, values in enumerate((RAMP * 4, RAMP * -2)):
        write_tiff(root / "test" / "a" / f"{number}.tif", values.astype(np.float32))
    data = load_images(str(root), val_fraction=0)
    assert data.notes["images_beyond_range"] == 2
    assert "note: 2 images are beyond the range of values in train, and cut to it" in data.remarks
    above, below = data.test.arrays.images[:2, ..., 0]
    assert above.max() == 255 and (above == 255).sum() == (RAMP * 4 >= 3 - 4 / 510).sum()
    assert below.min() == 0 and (below == 0).sum() == (RAMP * -2 < -1 + 4 / 510).sum()


def test_a_kind_of_values_that_train_has_not_is_named(tmp_path, own_cache):
    root = tmp_path / "set"
    for name in ("train/a", "train/b", "test/a", "test/b"):
        write_images(root / name, 10, mode="L")
    write_tiff(root / "test" / "a" / "share.tif", RAMP.astype(np.float32))  # in 0..1, where floats are at home
    data = load_images(str(root), val_fraction=0)
    assert np.array_equal(data.test.arrays.images[10, ..., 0], (RAMP.astype(np.float32) * 255).round())
    write_tiff(root / "test" / "a" / "depth.tif", (RAMP * 3).astype(np.float32))
    with pytest.raises(UserError, match=r"depth\.tif: its values are floats beyond 0\.\.1, and no training image had"):
        load_images(str(root))


def test_infer_prepares_the_files_as_training_did(tmp_path, own_cache, capsys):
    root = tree_of(tmp_path / "set", np.float32, -1, 3)
    fresh_process()
    options = ["--cpu", "--model", "mlp", "--epochs", "1", "--track", "none", "--output-dir", str(tmp_path)]
    train.main([*options, "--dataset", str(root), "--run-name", "run"])
    best = tmp_path / "run" / "best.pth"
    content = best_weights.load(best)
    assert content["ranges"] == {"floats": (-1, 3)}
    (_, task), data = best_weights.restore(content, "best.pth"), load_images(str(root))
    paths = sorted((root / "test").rglob("*.tif"))
    unreadable: list[str] = []
    readable, images = read_images(paths, task, unreadable)
    assert (readable, unreadable) == (paths, []) and np.array_equal(images, data.test.arrays.images)

    write_tiff(tmp_path / "bright.tif", (RAMP * 9).astype(np.float32))
    write_tiff(tmp_path / "whole.tif", (RAMP * 900).astype(np.int32))
    write_tiff(tmp_path / "nan.tif", np.full((8, 8), np.nan, dtype=np.float32))
    code, out, err = predict(
        capsys, "--weights", best, *(tmp_path / f"{name}.tif" for name in ("bright", "whole", "nan"))
    )
    assert code == 1 and out.count("bright.tif: ") == 1
    assert "note: " in err and "bright.tif has values beyond the range of training, cut to it" in err
    assert (
        "whole.tif: its values are integers beyond 0..255" in err
        and "nan.tif: 64 of its pixels are no finite numbers" in err
    )
    assert "2 of 3 images could not be read" in err


def colour_files(folder: Path) -> None:
    """One file of each kind that photos come in, all 8x8."""
    generator = np.random.default_rng(5)
    colour, alpha = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8), generator.integers(0, 256, (8, 8), np.uint8)
    picture = Image.fromarray(colour)
    picture.save(folder / "rgb.png")
    picture.save(folder / "rgb.jpg")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("YCbCr").save(folder / "ycbcr.tif")
    Image.frombytes("LAB", (8, 8), picture.tobytes()).save(folder / "lab.tif")
    picture.quantize(16).save(folder / "palette.png", transparency=3)
    picture.quantize(8).save(folder / "palette.gif")
    Image.fromarray(np.dstack([colour, alpha])).save(folder / "rgba.png")
    Image.fromarray(np.dstack([colour[..., 0], alpha])).save(folder / "grey_alpha.png")
    Image.fromarray(colour[..., 0] > 100).save(folder / "bits.png")
    Image.fromarray(colour[..., 0].astype(np.uint16) * 257).save(folder / "sixteen.png")
    write_pgm(folder / "sixteen.pgm", RAMP * 60000)
    wide = np.repeat(RAMP[..., None] * 60000, 3, axis=2).round().astype(">u2")
    (folder / "sixteen.ppm").write_bytes(b"P6 8 8 65535\n" + wide.tobytes())
    write_tiff(folder / "integers.tif", (RAMP * 5000 - 900).astype(np.int32))
    write_tiff(folder / "floats.tif", (RAMP * 3).astype(np.float32))


def test_a_file_of_any_kind_is_the_same_to_infer_as_to_training(tree, own_cache):
    root = tree("a", "b")
    colour_files(root / "a")
    data = load_images(str(root), val_fraction=0)
    for path, image in zip(sorted((root / "a").iterdir()), data.train.arrays.images, strict=False):
        assert np.array_equal(read_image(path, data.shape, data.ranges), image), path


def write_channels(path: Path, values: np.ndarray, colours: bool) -> None:
    """A TIFF of many channels, (H, W, C), as cameras for other light than ours write them."""
    height, width, channels = values.shape
    bits = struct.pack(f"<{channels}H", *[8 * values.itemsize] * channels)
    short, long = 3, 4
    entries = [(256, long, 1, width), (257, long, 1, height), (258, short, channels, 8), (259, short, 1, 1)]
    entries += [(262, short, 1, 2 if colours else 1), (273, long, 1, 8 + len(bits)), (277, short, 1, channels)]
    entries += [(278, long, 1, height), (279, long, 1, values.nbytes)]
    head = b"II*\0" + struct.pack("<I", 8 + len(bits) + values.nbytes)
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    path.write_bytes(head + bits + values.tobytes() + struct.pack("<H", len(entries)) + packed + bytes(4))


@pytest.mark.parametrize(("channels", "dtype", "colours"), [(5, "u1", True), (5, "u1", False), (8, "<u2", True)])
@pytest.mark.parametrize("decode", ["cache", "live"])
def test_more_channels_than_colours_are_refused_in_words_and_never_dropped(
    decode, channels, dtype, colours, tree, own_cache, capfd
):
    root = tree("cat", "dog")
    write_channels(root / "cat" / "field.tif", np.zeros((8, 8, channels), dtype), colours)
    said = f"field.tif: a TIFF of {channels} channels, and only grey or colour can be read: write the ones to use"
    with pytest.raises(UserError, match=said):
        load_images(str(root), decode=decode)
    assert len(load_images(str(root), decode=decode, skip_bad_images=True).train) == 14
    assert "channels" not in capfd.readouterr().err.replace(said, "")
