"""Data: what is trained on is what the files hold, split as promised, decoded once."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data import decode_all, prepare, readers
from data.dataset import load_images
from data.sources import find_source
from data.split import stratified_split, stratified_subset
from tests.conftest import REPOSITORY, write_images
from tests.driver import HANGS

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
# name: train, test, (height, width, channels), mean, std as the real sets' own description gives them.
FIGURES = {
    "cifar10": (50_000, 10_000, (32, 32, 3), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "mnist": (60_000, 10_000, (28, 28, 1), (0.1307,), (0.3081,)),
    "imagenette": (500, 200, (128, 128, 3), None, None),
}


@pytest.mark.parametrize("name", FIGURES)
def test_some_of_a_real_set_decodes_pixel_for_pixel(name, some_of_the_data, own_cache):
    data = load_images(name, data_dir=str(some_of_the_data), val_fraction=0)
    decodes_as_datasets_does(data, some_of_the_data / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_real_sets_have_their_published_figures_and_decode_pixel_for_pixel(name, real_data):
    data = load_images(name, data_dir=real_data, val_fraction=0)
    train, test, shape, mean, std = FIGURES[name]
    assert (len(data.train), len(data.val), len(data.test), data.shape) == (train, 0, test, shape)
    assert data.class_names[0] == {"cifar10": "airplane", "mnist": "0", "imagenette": "tench"}[name]
    assert name != "cifar10" or data.class_names == CIFAR10
    assert name != "imagenette" or (np.bincount(data.train.arrays.labels) == 50).all()
    if mean is not None:
        assert np.allclose(data.mean, mean, atol=6e-5) and np.allclose(data.std, std, atol=6e-5)
    decodes_as_datasets_does(data, Path(real_data, name))


def decodes_as_datasets_does(data, folder):
    import datasets

    reference = datasets.load_dataset(str(folder))
    for part, rows in ((data.train, reference["train"]), (data.test, reference[list(reference)[-1]])):
        column = next(key for key, feature in rows.features.items() if isinstance(feature, datasets.Image))
        assert np.array_equal(part.arrays.labels, rows["label"][:])
        for number in np.random.default_rng(0).choice(len(part), 40, replace=False).tolist():
            assert np.array_equal(part.arrays.images[number], np.asarray(rows[number][column]).reshape(data.shape))


def test_cifar100_has_a_hundred_fine_and_twenty_coarse_classes(real_data):
    source = find_source("cifar100", real_data)
    fine, coarse = (readers.read_raw_splits(source, readers.Selection(coarse=coarse))[0] for coarse in (False, True))
    assert (np.bincount(fine["train"].labels) == 500).all() and len(fine["train"].class_names) == 100
    assert (np.bincount(coarse["test"].labels) == 500).all() and len(coarse["test"].class_names) == 20
    assert "apple" in fine["train"].class_names and "aquatic_mammals" in coarse["train"].class_names


def test_a_folder_of_images_is_read_as_it_is_named(tree, own_cache):
    root = tree("Train/cat", "Train/dog", "val/cat", "val/dog", "test/cat", "test/dog", mode="L")
    write_images(root / "Train" / ".thumbnails", 3)
    write_images(root / "Train" / "cat" / ".trash", 3)
    write_images(root / "__MACOSX" / "cat", 3)
    data = load_images(str(root))
    assert (len(data.train), len(data.val), len(data.test), data.shape) == (20, 20, 20, (8, 8, 1))
    assert data.class_names == ["cat", "dog"] and data.name == "pets"
    expected = np.asarray(Image.open(root / "Train" / "dog" / "3.png"))
    assert any(np.array_equal(expected, image[..., 0]) for image in data.train.arrays.images[10:])
    shutil.rmtree(root / "val")
    data = load_images(str(root), val_fraction=0.2)
    assert (len(data.train), len(data.val), len(data.test)) == (16, 4, 20)


def test_a_folder_without_splits_holds_out_a_test_part_that_no_seed_moves(tree, own_cache):
    root = tree("cat", "dog", "owl", count=20)
    parts = [load_images(str(root), seed=seed) for seed in (0, 1)]
    assert [(len(data.train), len(data.val), len(data.test)) for data in parts] == [(42, 6, 12)] * 2
    assert np.array_equal(parts[0].test.ids, parts[1].test.ids)
    assert not np.array_equal(parts[0].val.ids, parts[1].val.ids)
    for data in parts:
        assert sorted([*data.train.ids, *data.val.ids, *data.test.ids]) == list(range(60))


def test_one_grey_picture_among_colour_becomes_colour(tree, own_cache):
    root = tree("cat", "dog")
    write_images(root / "dog", 1, mode="L")
    data = load_images(str(root))
    assert data.shape == (8, 8, 3)
    grey = data.train.arrays.images[10]
    assert (grey == grey[..., :1]).all() and grey[..., 0].tolist() == np.asarray(
        Image.open(root / "dog/0.png")
    ).tolist()


def test_many_sizes_are_refused_or_squared(tree, own_cache):
    root = tree("cat", "dog")
    Image.fromarray(np.full((30, 60, 3), 200, dtype=np.uint8)).save(root / "cat" / "0.png")
    with pytest.raises(UserError, match=r"2 sizes .*8x8 to 30x60.*--image-size"):
        load_images(str(root))
    data = load_images(str(root), image_size=12)
    assert data.shape == (12, 12, 3) and (data.train.arrays.images[0] == 200).all()


def labelled(n: int, classes: int, copies: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and hashes of n samples; the last `copies` are copies of others, some with another label."""
    generator = np.random.default_rng(n)
    labels, hashes = generator.integers(0, classes, n), np.arange(n, dtype=np.uint64)
    if copies:
        hashes[-copies:] = generator.integers(0, n - copies, copies)
    return labels, hashes


@pytest.mark.parametrize("fraction", [0, 0.1, 0.25, 0.5])
def test_a_split_is_whole_stratified_and_seeded(fraction):
    labels, hashes = labelled(1000, 7, copies=0)
    rest, part = stratified_split(labels, hashes, fraction, seed=3)
    assert np.array_equal(np.sort(np.concatenate([rest, part])), np.arange(1000))
    assert (np.abs(np.bincount(labels[part], minlength=7) - fraction * np.bincount(labels)) <= 0.5).all()
    assert np.array_equal(part, stratified_split(labels, hashes, fraction, seed=3)[1])
    assert fraction == 0 or not np.array_equal(part, stratified_split(labels, hashes, fraction, seed=4)[1])


@pytest.mark.parametrize("seed", range(5))
def test_copies_never_straddle_a_split_even_under_other_labels(seed):
    labels, hashes = labelled(1000, 4, copies=300)
    hashes[:200] = hashes[0]  # many more copies than the part has room for: the rest of it must fill up all the same
    rest, part = stratified_split(labels, hashes, 0.1, seed)
    assert not set(hashes[rest]) & set(hashes[part]) and len(rest) + len(part) == 1000
    assert 80 <= len(part) <= 120


def test_planted_duplicates_are_kept_together_and_counted(tree, own_cache):
    root = tree("train/cat", "train/dog", "test/cat", "test/dog", count=20)
    for number in range(10):
        shutil.copy(root / "train/cat" / f"{number}.png", root / "train/cat" / f"copy{number}.png")
    shutil.copy(root / "train/cat/15.png", root / "train/dog/same.png")
    for number in range(3):
        shutil.copy(root / "train/dog" / f"{number}.png", root / "test/dog" / f"leak{number}.png")
    for seed in range(4):
        data = load_images(str(root), val_fraction=0.3, seed=seed)
        hashes = data.train.arrays.hashes
        assert not set(hashes[data.train.ids]) & set(hashes[data.val.ids])
        in_train = {image.tobytes() for image in data.train.arrays.images[data.train.ids]}
        leaks = sum(image.tobytes() in in_train for image in data.test.arrays.images)
        assert data.notes["test_images_also_in_train"] == leaks <= 3
    whole = load_images(str(root), val_fraction=0)
    assert whole.notes["test_images_also_in_train"] == 3 and whole.notes["duplicates_within_train"] == 11


def test_a_validation_split_of_the_set_itself_loses_what_is_trained_on(tree, own_cache):
    root = tree("train/cat", "train/dog", "val/cat", "val/dog", "test/cat", "test/dog")
    shutil.copy(root / "train/cat/4.png", root / "val/cat/4.png")
    data = load_images(str(root))
    assert (len(data.train), len(data.val)) == (20, 19)


def test_a_limit_keeps_the_classes_in_proportion():
    labels = np.repeat(np.arange(4), [400, 300, 200, 100])
    ids = np.arange(0, 1000, 2)
    for count in (10, 33, 250, 500):
        kept = stratified_subset(labels, ids, count, seed=0)
        assert len(kept) == count == len(np.unique(kept)) and np.isin(kept, ids).all()
        assert (np.abs(np.bincount(labels[kept], minlength=4) - count * np.array([0.4, 0.3, 0.2, 0.1])) < 1).all()
    assert not np.array_equal(kept[:250], stratified_subset(labels, ids, 250, seed=1))


def test_the_cache_is_built_once_and_again_when_a_file_changes(tree, own_cache, monkeypatch):
    root = tree("cat", "dog")
    first = load_images(str(root), val_fraction=0)
    with monkeypatch.context() as context:
        context.setattr(decode_all, "to_array", None)  # any decoding would now raise
        context.setattr(prepare, "read_raw_splits", None)
        again = load_images(str(root), val_fraction=0)
    assert np.array_equal(first.train.arrays.images, again.train.arrays.images)
    Image.fromarray(np.full((8, 8, 3), 7, dtype=np.uint8)).save(root / "cat" / "0.png")
    changed = load_images(str(root), val_fraction=0).train.arrays.images
    assert (changed[0] == 7).all() and np.array_equal(changed[1:], first.train.arrays.images[1:])
    write_images(root / "owl", 10)
    assert load_images(str(root), val_fraction=0).class_names == ["cat", "dog", "owl"]
    assert len(list(own_cache.glob("*/*/meta.json"))) == 1  # what the changed data left behind is gone


BUILD = """
import sys, time
from pathlib import Path
from data import cache, decode_all
from data.readers import RawSplit
from data.survey import survey
decoded = decode_all.to_array
def to_array(*args):
    print("decoding", flush=True)
    time.sleep(9999 if "kill" in sys.argv else 0.02)
    return decoded(*args)
decode_all.to_array = to_array
paths = [str(path) for path in sorted(Path(sys.argv[1]).rglob("*.png"))]
def read(rows):
    return [{"bytes": None, "path": path} for path in paths[rows.start : rows.stop]]
split = RawSplit(len(paths), read, [0] * len(paths), ["cat"], "")
folder = cache.cache_folder("pets", "fingerprint")
assert cache.read(folder) is None
print("ready", flush=True)
sys.stdin.readline()
seen = survey({"train": split})
decode_all.build(folder, {"train": split}, seen, image_size=None, skip_bad_images=False)
print(len(cache.read(folder)[0]["train"].images), flush=True)
"""


def start_build(root: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-c", BUILD, str(root), *words]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_killed_build_leaves_nothing_that_loads_and_a_race_decodes_once(tree, own_cache):
    root = tree("cat", "dog")
    killed = start_build(root, "kill")
    killed.stdin.write("go\n")
    killed.stdin.flush()
    assert killed.stdout.readline() == "decoding\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not list(own_cache.glob("*/*/meta.json"))
    (litter,) = own_cache.glob("*/*/")
    racers = [start_build(root), start_build(root)]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.communicate(timeout=HANGS)[0].splitlines() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0] and [lines[-1] for lines in said] == ["20", "20"]
    assert sum(lines.count("decoding") for lines in said) == 20  # one of them decoded, the other waited
    assert len(list(own_cache.glob("*/*/meta.json"))) == 1 and not litter.exists()


def test_a_full_disk_is_one_clear_line(tree, own_cache, small_disk, monkeypatch):
    root = tree("cat", "dog", size=(64, 64))
    monkeypatch.setenv("HF_HOME", str(small_disk))
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    with pytest.raises(UserError, match=r"images take .* GB .* free: make room"):
        load_images(str(root), image_size=256)
    for blind in (False, True):  # where other programs fill the disk meanwhile, only writing tells
        if blind:
            monkeypatch.setattr(decode_all, "_check_room", lambda folder, wanted: None)
            with pytest.raises(UserError, match=r"No space left on device.*HF_HOME"):
                load_images(str(root), image_size=256)
        assert not list(small_disk.glob("sameloop/*/*/"))


def test_a_disk_that_datasets_fills_while_it_unpacks_is_named(tmp_path, own_cache, small_disk, monkeypatch):
    import datasets

    # 1.8 MB, which no PNG shortens
    noise = np.random.default_rng(0).integers(0, 256, (60, 100, 100, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    columns = {"image": [Image.fromarray(image) for image in noise], "label": [0, 1] * 30}
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(tmp_path / "set" / "train.parquet"))
    monkeypatch.setenv("HF_HOME", str(small_disk))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(small_disk / "datasets"))
    with pytest.raises(UserError, match=f"no space left in {small_disk}/datasets: make room there, or set HF_HOME"):
        load_images(str(tmp_path / "set"))
