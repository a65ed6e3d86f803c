"""--decode live: images that stay encoded give the same bits as cached ones, whoever decodes them, and whenever."""

import signal
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms.v2 import functional as torchvision

from common.errors import UserError
from data import photo_crops
from data.augment.batch import Augment
from data.augment.spec import parse
from data.dataset import DataSplits, load_images
from data.geometry import Geometry
from data.loader import ImageDataset, TrainSampler, train_loader
from tests.driver import Fault, train

SIZES = (
    (90, 60),
    (60, 90),
    (95, 80),
    (64, 64),
    (33, 100),
)  # (width, height): none has twice the 48 pixels that most tests ask for


def photo(width: int, height: int, seed: int) -> Image.Image:
    """A smooth picture with some grain, as cameras make."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    return Image.fromarray((smooth + generator.integers(-9, 9, smooth.shape)).clip(0, 255).astype(np.uint8))


def write_photos(root: Path, count: int = 20) -> Path:
    """Folders cat/ and dog/ of photos of many sizes and formats, also turned, grey, for print and with transparency."""
    turned = Image.Exif()
    turned[photo_crops.ORIENTATION_TAG] = 6
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture, path = photo(*SIZES[number % len(SIZES)], 100 * label + number), root / name / f"{number:02}"
            match number % 7:
                case 0 | 1:
                    picture.save(f"{path}.jpg", quality=90, progressive=number % 2 == 0)
                case 2:
                    picture.save(f"{path}.jpg", exif=turned)
                case 3:
                    picture.convert("L").save(f"{path}.jpg")
                case 4:
                    picture.convert("CMYK").save(f"{path}.jpg")
                case 5:
                    picture.convert("RGBA").save(f"{path}.png")
                case 6:
                    picture.save(f"{path}.tif")
    return root


def as_table(root: Path, place: Path) -> Path:
    """The same images in a parquet file."""
    files = sorted(root.rglob("*.*"))
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    place.mkdir()
    table = pyarrow.table({"image": images, "label": [file.parent.name for file in files]})
    pyarrow.parquet.write_table(table, place / "train.parquet")
    return place


@pytest.fixture
def photos(tmp_path: Path, own_cache: Path) -> Path:
    return write_photos(tmp_path / "my pets")


@pytest.mark.parametrize("kind", ["tree", "table"])
@pytest.mark.parametrize("geometry", [Geometry(), Geometry("crop", 0.8), Geometry("pad"), Geometry("stretch")])
def test_images_that_stay_encoded_are_prepared_as_those_that_are_cached(kind, geometry, photos, tmp_path):
    source = str(photos if kind == "tree" else as_table(photos, tmp_path / "table"))
    for _ in range(2):  # indexed, then from the index
        live, cached = (
            load_images(source, image_size=48, geometry=geometry, decode=decode) for decode in ("live", "cache")
        )
        assert live.live and not cached.live
        assert (live.class_names, live.shape, live.geometry) == (cached.class_names, cached.shape, cached.geometry)
        assert (live.mean, live.std) == (cached.mean, cached.std)
        for own, other in ((live.train, cached.train), (live.val, cached.val), (live.test, cached.test)):
            assert np.array_equal(own.ids, other.ids) and own.names() == other.names()
            assert np.array_equal(own.arrays.labels, other.arrays.labels)
            assert np.array_equal(own.arrays.images[own.ids], other.arrays.images[other.ids])


def test_an_index_is_made_anew_when_a_photo_changes(photos):
    before = load_images(str(photos), image_size=48, decode="live").fingerprints()
    assert load_images(str(photos), image_size=48, decode="live").fingerprints() == before
    for path in photos.glob("cat/*.jpg"):
        photo(50, 50, seed=7).save(path)
    after = load_images(str(photos), image_size=48, decode="live")
    assert after.fingerprints() != before
    assert after.train.arrays.images.sizes.tolist().count([50, 50]) == len(list(photos.glob("cat/*.jpg")))


def crops(data: DataSplits, spec: str, epoch: int = 3) -> tuple[torch.Tensor, torch.Tensor, Augment]:
    """Random crops of all training photos, their boxes (N, 4), and what drew them."""
    augment = Augment(parse(spec), 5, len(data.train))
    images, ids = data.train.arrays.images, data.train.ids
    sizes = torch.from_numpy(images.sizes[ids].astype(np.int64)).unbind(1)
    boxes = torch.stack(augment.crop.boxes(sizes, torch.from_numpy(ids), epoch), 1)
    batch = ImageDataset(data.train.arrays, augment.crop).batch(ids, epoch)
    assert batch.cropped
    return batch.images, boxes, augment


def test_a_random_crop_is_torchvisions_of_the_same_box(photos):
    data = load_images(str(photos), image_size=48, decode="live")
    images, boxes, augment = crops(data, "rrc=0.05:3")
    assert len(set(map(tuple, boxes.tolist()))) == len(boxes)
    for name, image, box in zip(data.train.names(), images, boxes.tolist(), strict=True):
        with Image.open(name) as original:
            upright = torchvision.pil_to_tensor(Image.open(name).convert("RGB"))
            if original.getexif().get(photo_crops.ORIENTATION_TAG) == 6:
                upright = upright.rot90(-1, (1, 2))
        expected = torchvision.resized_crop(upright, *box, [48, 48], antialias=True)
        assert torch.equal(image, expected.permute(1, 2, 0)), name
    assert torch.equal(augment(images, torch.from_numpy(data.train.ids), 3, cropped=True), images)  # not once more


def test_a_large_jpeg_is_decoded_at_reduced_size_and_cropped_in_the_same_place(tmp_path, own_cache):
    ramps = np.zeros((800, 1200, 3), dtype=np.uint8)  # a colour says where it is from: 5 or 3 pixels a step
    ramps[..., 0], ramps[..., 1] = np.linspace(0, 255, 1200)[None], np.linspace(0, 255, 800)[:, None]
    for name in ("cat", "dog"):
        (tmp_path / "large" / name).mkdir(parents=True)
        for number in range(25):
            ramps[..., 2] = 5 * number + 100 * (name == "cat")
            Image.fromarray(ramps).save(tmp_path / "large" / name / f"{number}.jpg", quality=95)
    data = load_images(str(tmp_path / "large"), image_size=64, decode="live", val_fraction=0)
    images, boxes, _ = crops(data, "rrc=0.02:1.3333")
    errors = []
    for name, image, box in zip(data.train.names(), images, boxes.tolist(), strict=True):
        whole = torchvision.pil_to_tensor(Image.open(name))
        expected = torchvision.resized_crop(whole, *box, [64, 64], antialias=True).permute(1, 2, 0)
        errors.append((image.int() - expected.int()).abs().max().item())
    assert 0 < max(errors) <= 3  # a box of whole pixels of the reduced photo may be half of one, 4 of the large, beside


def test_workers_do_not_change_a_bit_of_a_crop(photos):
    data = load_images(str(photos), image_size=48, decode="live")
    crop = Augment(parse("rrc"), 5, len(data.train)).crop
    batches = []
    for workers in (0, 2, 4):
        sampler = TrainSampler(data.train.ids, 5, 0, 9, 8, 1, 0, 1)
        loader = train_loader(data.train, sampler, workers, pin_memory=False, crop=crop)
        batches.append([(batch.ids, batch.labels, batch.images) for batch in loader])
    assert len(batches[0]) == 9
    for one, two, three in zip(*batches, strict=True):
        assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(one, two, three, strict=True))
    first_epoch, second_epoch = batches[0][0], batches[0][len(data.train) // 8]
    assert set(first_epoch[0].tolist()) != set(second_epoch[0].tolist())


OPTIONS = (
    "--cpu --track none --decode live --image-size 32 --model mlp --model-arg hidden=16 --epochs 3 "
    "--mixed-precision no --batch-size 8 --augment rrc,flip,mixup --checkpoint-every 1 --keep 99 --run-name run"
).split()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "run/checkpoints/step-9/model.safetensors")


def run(photos: Path, folder: Path, processes: int, *more: str, fault: Fault | None = None) -> list[int]:
    options = [*OPTIONS, "--dataset", str(photos), "--output-dir", str(folder), *more]
    codes, printed = train(options, processes, fault)
    assert fault or codes == [0] * processes, printed
    return codes


def test_a_killed_run_goes_on_to_the_same_bits_whatever_its_workers_and_to_the_same_weights_on_two_processes(
    photos, tmp_path
):
    run(photos, tmp_path / "whole", 1, "--workers", "0")
    expected = weights(tmp_path / "whole")
    assert run(photos, tmp_path / "killed", 1, "--workers", "2", fault=Fault(kill_after=5)) == [-signal.SIGKILL]
    run(photos, tmp_path / "killed", 1, "--workers", "4", "--resume", "auto")
    assert all(torch.equal(weights(tmp_path / "killed")[name], expected[name]) for name in expected)
    run(photos, tmp_path / "two", 2, "--workers", "2")
    assert all(torch.allclose(weights(tmp_path / "two")[name], expected[name], atol=1e-6) for name in expected)


def test_damaged_photos_are_named_before_a_run_begins(photos):
    cut_short = photos / "cat" / "00.jpg"
    cut_short.write_bytes(cut_short.read_bytes()[:700])
    (photos / "dog" / "00.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"2 of the images .*cat/00.jpg: .*dog/00.jpg: not an image"):
        load_images(str(photos), image_size=48, decode="live")
    data = load_images(str(photos), image_size=48, decode="live", skip_bad_images=True)
    assert len(data.train) + len(data.val) + len(data.test) == 38
    assert data.notes["bad_images_left_out"] == 2
    with pytest.raises(UserError, match="2 of the images"):  # though an index is there now
        load_images(str(photos), image_size=48, decode="live")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_photo_that_goes_while_it_is_trained_on_ends_the_run_in_one_line(workers, photos):
    data = load_images(str(photos), image_size=48, decode="live")
    (photos / "cat" / "00.jpg").unlink()
    sampler = TrainSampler(np.arange(40), 5, 0, 5, 8, 1, 0, 1)
    with pytest.raises(UserError) as caught:
        list(train_loader(data.train, sampler, workers, pin_memory=False))
    message = str(caught.value)
    assert message.startswith(f"{photos}/cat/00.jpg could be decoded when the run began and cannot be now: ")
    assert message.endswith("go on by --resume") and "\n" not in message


def test_images_that_would_take_more_than_half_of_what_is_free_are_decoded_at_every_step(
    photos, small_disk, monkeypatch
):
    monkeypatch.setenv("HF_HOME", str(small_disk))
    for _ in range(2):  # indexed, then from the index
        large = load_images(str(photos), image_size=60, decode="auto")
        assert large.live
        (remark,) = (remark for remark in large.remarks if "decoded at every step" in remark)
        assert "are more than half of 0.0 GB of free disk; --decode cache keeps them" in remark
    small = load_images(str(photos), image_size=8, decode="auto")
    assert not small.live
    assert "note: decoded once and kept, 0.0 GB; --decode live decodes at every step" in small.remarks


def test_an_index_takes_less_than_200_bytes_a_file(photos):
    data = load_images(str(photos), image_size=48, decode="live")
    arrays, images = data.train.arrays, data.train.arrays.images
    columns = (arrays.labels, arrays.hashes, arrays.names.text, arrays.names.ends, images.sizes, images.plain)
    longest = max(map(len, data.train.names()))
    assert sum(column.nbytes for column in columns) < len(arrays.labels) * (longest + 50)
