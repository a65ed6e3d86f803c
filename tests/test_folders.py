"""Folders of images and of parquet files, as people have them: found, read whole, or refused in one line."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data.dataset import load_images
from data.pairs import load_pairs
from data.sources import find_source
from tests.conftest import write_images


@pytest.mark.parametrize("values", [[3, 10, 2], ["owl", "cat", "dog"]])
def test_plain_labels_take_their_classes_from_the_train_split(values, tmp_path, own_cache):
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Value("string" if values[0] == "owl" else "int64")}
    )
    for split, count in (("train", 30), ("test", 6)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 8, 8), dtype=np.uint8)
        rows = {"image": [Image.fromarray(image) for image in pixels], "label": [values[i % 3] for i in range(count)]}
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(str(tmp_path / "set" / f"{split}.parquet"))
    data = load_images(str(tmp_path / "set"), val_fraction=0)
    assert data.class_names == [str(value) for value in sorted(values)]
    assert [data.class_names[label] for label in data.test.arrays.labels[:3]] == [str(value) for value in values]
    assert np.array_equal(data.test.arrays.images[..., 0], pixels)


def test_a_source_is_found_where_a_person_means_it(tmp_path, monkeypatch):
    there, here = tmp_path / "data sets", tmp_path / "here"
    for folder in (there / "cifar10", there / "holiday", here / "holiday", here / "me" / "set", there / "set"):
        write_images(folder / "a", 1)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))
    data_dir = str(there)
    for dataset in ("cifar10", "uoft-cs/cifar10", "cifar10/"):
        assert find_source(dataset, data_dir).where == str(there / "cifar10")
    assert find_source("holiday", data_dir).where == str(there / "holiday")
    for dataset in ("holiday", "./holiday", "holiday/", "~/holiday", str(here / "holiday")):
        assert find_source(dataset, None).where == str(here / "holiday")
    for dataset in ("./holiday", "~/holiday", str(here / "holiday") + "/"):
        assert find_source(dataset, data_dir).where == str(here / "holiday")
    assert find_source("me/set", data_dir).where == str(here / "me" / "set")
    assert find_source("you/set", data_dir).where == str(there / "set")
    assert find_source(".", None).name == "here"
    assert find_source("cifar10", None) == find_source("cifar10", str(here))
    assert (find_source("cifar10", None).kind, find_source("you/set", None).kind) == ("hub", "hub")
    for dataset in ("", "./cifar10", "~/cifar10", "~/holiday/no", "a/b/c", "my set/with space"):
        for place in (data_dir, None):
            with pytest.raises(UserError):
                find_source(dataset, place)


def test_parquet_that_holds_images_goes_before_pictures_beside_it(tmp_path, own_cache):
    (tmp_path / "set").mkdir()
    write_parquet(tmp_path / "set" / "train.parquet")
    pixels = write_parquet(tmp_path / "set" / "test.parquet")
    write_images(tmp_path / "set" / "docs", 3)
    (tmp_path / "set" / "README.md").write_text("# A set\n")
    assert find_source(str(tmp_path / "set"), None).kind == "parquet"
    for _ in range(2):  # read, then from the cache
        data = load_images(str(tmp_path / "set"), val_fraction=0)
        assert data.remarks == ["note: 3 files left out (.png 3)"]
        assert np.array_equal(data.test.arrays.images, pixels)
    write_images(tmp_path / "set" / "docs", 4)
    assert load_images(str(tmp_path / "set"), val_fraction=0).remarks == ["note: 4 files left out (.png 4)"]


def test_parquet_that_holds_no_images_goes_behind_class_folders(tree, own_cache):
    import pyarrow
    from pyarrow import parquet

    root = tree("cat", "dog")
    parquet.write_table(pyarrow.table({"file_name": ["cat/0.png"], "width": [8]}), root / "metadata.parquet")
    data = load_images(str(root), val_fraction=0)
    assert data.class_names == ["cat", "dog"] and data.remarks == ["note: 1 file left out (.parquet 1)"]
    (root / "metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"metadata\.parquet cannot be opened: .*move it away from the images"):
        find_source(str(root), None)


def test_what_links_lead_to_is_read_and_noticed_when_it_changes(tree, tmp_path, own_cache):
    root = tree("cat", "elsewhere/dog")
    (root / "elsewhere").rename(tmp_path / "elsewhere")
    (root / "dog").symlink_to(tmp_path / "elsewhere" / "dog")
    (root / "dog" / "back").symlink_to(root / "dog")  # never ends, if followed for ever
    first = load_images(str(root), val_fraction=0)
    assert first.class_names == ["cat", "dog"] and len(first.train) + len(first.test) == 20
    write_images(tmp_path / "elsewhere" / "dog", 15, seed=5)
    changed = load_images(str(root), val_fraction=0)
    assert len(changed.train) + len(changed.test) == 25
    for split in ("train", "test"):
        (tmp_path / "linked").mkdir(exist_ok=True)
        (tmp_path / "linked" / split).symlink_to(root)
    assert len(load_images(str(tmp_path / "linked"), val_fraction=0).test) == 25


def test_two_folders_for_one_split_are_refused(tree, own_cache):
    root = tree("train/cat", "train/dog", "val/cat", "val/dog", "valid/cat", "valid/dog")
    with pytest.raises(UserError, match=r"two validation splits, val and valid: move one"):
        load_images(str(root))


def test_names_that_cannot_be_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"~nobody-here/x: there is no such folder"):
        find_source("~nobody-here/x", None)
    with pytest.raises(UserError, match=r"--data-dir ~nobody-here: there is no such folder"):
        find_source("digits", "~nobody-here")
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    write_images(odd / "cat", 1)
    with pytest.raises(UserError, match=r"is not UTF-8: rename it"):
        find_source(str(odd), None)


def write_parquet(place: Path, *, large: bool = False, missing: int | None = None) -> np.ndarray:
    """30 images of three classes without a word of `datasets`, as pandas writes them; returns the pixels."""
    import pyarrow
    from pyarrow import parquet

    pixels = np.random.default_rng(len(place.name)).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    cells = []
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(place.parent / "one.png")
        cells.append(None if number == missing else {"bytes": (place.parent / "one.png").read_bytes(), "path": None})
    (place.parent / "one.png").unlink()
    words = pyarrow.array(["owl", "cat", "dog"] * 10, pyarrow.large_string() if large else pyarrow.string())
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    parquet.write_table(pyarrow.table({"image": pyarrow.array(cells, kind), "label": words}), place)
    return pixels


@pytest.mark.parametrize("large", [False, True])
def test_parquet_that_datasets_did_not_write_is_read(large, tmp_path, own_cache):
    (tmp_path / "set").mkdir()
    write_parquet(tmp_path / "set" / "train.parquet", large=large)
    pixels = write_parquet(tmp_path / "set" / "test.parquet", large=large)
    data = load_images(str(tmp_path / "set"), val_fraction=0)
    assert data.class_names == ["cat", "dog", "owl"] and data.test.arrays.labels[:3].tolist() == [2, 0, 1]
    assert np.array_equal(data.test.arrays.images, pixels)


def test_a_row_without_an_image_is_named_or_left_out(tmp_path, own_cache):
    (tmp_path / "set").mkdir()
    write_parquet(tmp_path / "set" / "train.parquet", missing=4)
    write_parquet(tmp_path / "set" / "test.parquet")
    with pytest.raises(UserError, match=r"1 of the images cannot be read.*train\[4\]: there is no image"):
        load_images(str(tmp_path / "set"), val_fraction=0)
    data = load_images(str(tmp_path / "set"), val_fraction=0, skip_bad_images=True)
    assert (len(data.train), data.notes["bad_images_left_out"]) == (29, 1)


def test_a_test_split_of_nothing_but_bad_images_is_no_reason_to_test_on_another(tree, own_cache):
    root = tree("train/cat", "train/dog", "val/cat", "val/dog", "test/cat", "test/dog")
    for path in (root / "test").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no image is left for the test part"):
        load_images(str(root), skip_bad_images=True)


def test_a_card_beside_the_files_is_part_of_the_data(tmp_path, own_cache):
    (tmp_path / "set").mkdir()
    for name in ("train", "more"):
        write_parquet(tmp_path / "set" / f"{name}.parquet")
    plain = find_source(str(tmp_path / "set"), None)
    (tmp_path / "set" / "README.md").write_text("---\nconfigs:\n- config_name: default\n---\n")
    assert find_source(str(tmp_path / "set"), None).fingerprint != plain.fingerprint


def test_patterns_in_a_name_are_refused_as_such(tmp_path, own_cache):
    (tmp_path / "pets [v2]").mkdir()
    write_parquet(tmp_path / "pets [v2]" / "train.parquet")
    with pytest.raises(UserError, match=r"\[ \] \* \?.*rename"):
        load_images(str(tmp_path / "pets [v2]"))


@pytest.mark.parametrize("lost", ["train-images.raw", "train-labels.npy", "meta.json"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_cache_that_lost_something_is_made_anew(lost, whole, tree, own_cache):
    root = tree("cat", "dog")
    first = load_images(str(root)).train.arrays.images.copy()
    (place,) = own_cache.glob(f"*/*/{lost}")
    place.unlink() if whole else place.write_bytes(place.read_bytes()[:100])
    assert np.array_equal(load_images(str(root)).train.arrays.images, first)
    assert len(list(own_cache.glob("*/*/meta.json"))) == 1


def test_pairs_of_one_name_are_refused(tmp_path):
    write_images(tmp_path / "pairs" / "input", 10)
    write_images(tmp_path / "pairs" / "target", 10)
    Image.new("RGB", (8, 8)).save(tmp_path / "pairs" / "input" / "3.bmp")
    with pytest.raises(UserError, match=r"3\.bmp and .*3\.png differ in their suffix alone"):
        load_pairs(str(tmp_path / "pairs"))
