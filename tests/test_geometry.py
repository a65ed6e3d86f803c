"""A photo becomes an input by --fit: nothing is lost but what is said to be, and prediction does what training did."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

import train
from common.errors import UserError
from data.dataset import load_images
from data.decode import fitted
from data.geometry import FITS, MIDDLE, Geometry
from data.survey import filled
from engine.checkpoints import best_weights
from engine.load import geometry_of
from options.groups import TrainOptions
from tasks.inference import read_images
from tests.conftest import fresh_process, predict

SIZES = [(90, 60), (60, 90), (64, 64), (200, 40), (31, 47)]  # (width, height)
BICUBIC = InterpolationMode.BICUBIC


def photo(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Noise with something of every scale in it."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    fine = Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    return Image.blend(coarse, fine, 0.3)


@pytest.mark.parametrize("size", SIZES)
def test_stretch_is_torchvisions_resize_bit_for_bit(size: tuple[int, int]) -> None:
    found = fitted(photo(size), (32, 48), Geometry("stretch"))
    assert np.array_equal(np.asarray(found), np.asarray(reference.resize(photo(size), [32, 48], BICUBIC)))


@pytest.mark.parametrize("size", SIZES)
def test_pad_shows_all_of_a_photo_in_its_own_form_amid_the_fill(size: tuple[int, int]) -> None:
    found = np.asarray(fitted(photo(size), (64, 64), Geometry("pad", fill=(9, 80, 200))))
    width, height = (max(1, round(64 * side / max(size))) for side in size)
    top, left = round((64 - height) / 2), round((64 - width) / 2)
    whole = reference.resize(photo(size), [height, width], BICUBIC)
    inside = np.zeros((64, 64), dtype=bool)
    inside[top : top + height, left : left + width] = True
    assert np.array_equal(found[inside], np.asarray(whole).reshape(-1, 3))
    assert (found[~inside] == (9, 80, 200)).all() and (found[~inside].size > 0) == (size[0] != size[1])


@pytest.mark.parametrize(
    ("size", "share", "box"),
    [
        ((90, 60), 1.0, (15, 0, 75, 60)),
        ((60, 90), 1.0, (0, 15, 60, 75)),
        ((160, 80), 0.5, (60, 20, 100, 60)),
        ((64, 64), 0.875, (4, 4, 60, 60)),
    ],
)
def test_crop_is_the_resized_middle_of_that_share(size: tuple, share: float, box: tuple) -> None:
    geometry = Geometry("crop", share)
    found = fitted(photo(size), (40, 40), geometry)
    assert np.array_equal(np.asarray(found), np.asarray(photo(size).resize((40, 40), Image.Resampling.BICUBIC, box)))
    kept = (box[2] - box[0]) * (box[3] - box[1]) / (size[0] * size[1])
    assert geometry.share_left_out((size[1], size[0]), (40, 40)) == pytest.approx(1 - kept)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos of five sizes, of two classes."""
    for number in range(80):
        folder = tmp_path / "my photos" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        photo(SIZES[number // 2 % len(SIZES)], number).save(folder / f"{number}.png")
    return tmp_path / "my photos"


@pytest.mark.parametrize("fit", FITS)
def test_prediction_prepares_a_photo_as_training_did(fit: str, photos: Path, tmp_path: Path, own_cache, capsys) -> None:
    fresh_process()
    options = [
        "--cpu",
        "--track",
        "none",
        "--dataset",
        str(photos),
        "--image-size",
        "24",
        "--fit",
        fit,
        "--epochs",
        "1",
    ]
    options += ["--crop-pct", "0.9"] if fit == "crop" else []
    run = Path(train.main([*options, "--model", "mlp", "--output-dir", str(tmp_path), "--run-name", "run"])["folder"])
    _, task = best_weights.restore(best_weights.load(run / "best.pth"), "best.pth")
    assert task.geometry == Geometry(fit, 0.9 if fit == "crop" else 1.0, task.geometry.fill)
    data = load_images(str(photos), image_size=24, geometry=Geometry(fit, task.geometry.crop_pct))
    for part in (data.train, data.test):
        _, images = read_images([Path(name) for name in part.names()], task, [])
        assert np.array_equal(images, part.arrays.images[part.ids])
    code, _, error = predict(capsys, "--weights", run)
    assert (code, error) == (0, "")
    (again,) = run.glob("*/test.json")
    before, now = (json.loads(path.read_text()) for path in (run / "test.json", again))
    assert now["confusion_matrix"] == before["confusion_matrix"]


def test_pad_fills_with_the_mean_of_train(photos: Path, own_cache) -> None:
    data = load_images(str(photos), image_size=24, geometry=Geometry("pad"))
    fill = torch.tensor(data.geometry.fill) / 255
    assert torch.allclose(fill, torch.tensor(data.mean), atol=0.02)
    constant = [np.full((4, 7, 3), value, dtype=np.uint8) for value in (10, 20, 60)]
    assert filled(Geometry("pad"), constant).fill == (30, 30, 30)


def test_a_warning_says_how_much_crop_cuts_off_the_median_photo(photos: Path, own_cache) -> None:
    # The sizes leave out 1/3, 1/3, 0, 4/5 and 16/47 of their photos.
    assert "warning: --fit crop cuts off 33% of the median photo; --fit pad or stretch keeps it all" in (
        load_images(str(photos), image_size=24).remarks
    )
    for fit in ("pad", "stretch"):
        assert "cuts off" not in " ".join(load_images(str(photos), image_size=24, geometry=Geometry(fit)).remarks)


def test_images_of_one_size_that_nobody_resizes_stay_as_they_are(tree, own_cache) -> None:
    folder = tree("cat", "dog", size=(12, 12))
    plain = load_images(str(folder))
    for geometry in (Geometry("crop", 0.5), Geometry("pad"), Geometry("stretch")):
        data = load_images(str(folder), geometry=geometry)
        assert np.array_equal(data.train.arrays.images, plain.train.arrays.images)
        assert data.geometry.crop_pct == 1


def test_the_weights_own_geometry_is_taken_where_none_is_given() -> None:
    hub = {"model": "timm/mobilenetv2_100", "pretrained": "hub"}
    assert geometry_of(TrainOptions(**hub)) == Geometry("crop", 0.875)  # timm's configuration
    assert geometry_of(TrainOptions(**hub, crop_pct=0.5)) == Geometry("crop", 0.5)
    assert geometry_of(TrainOptions(**hub, fit="pad")) == Geometry("pad")
    assert geometry_of(TrainOptions()) == MIDDLE


def test_a_share_without_a_crop_is_refused() -> None:
    with pytest.raises(UserError, match=r"--crop-pct 0[.]5 is of --fit crop, not of pad: leave it out"):
        geometry_of(TrainOptions(fit="pad", crop_pct=0.5))
