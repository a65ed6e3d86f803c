"""Tables with several data sets, or splits of any name: the one that is asked for, or a line with those there are."""

import io
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from common.errors import UserError
from data.dataset import load_images
from options.train import parse_train


def rows(count: int, seed: int) -> pyarrow.Table:
    """Images of noise, cats and dogs in turn."""
    images = []
    for pixels in np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8):
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, "PNG")
        images.append({"bytes": png.getvalue(), "path": None})
    return pyarrow.table({"image": images, "label": [("cat", "dog")[number % 2] for number in range(count)]})


@pytest.fixture
def two_sets(tmp_path: Path, own_cache: Path) -> str:
    """A folder as the Hub has it: a card that names the data sets small and large, each with three splits."""
    root = tmp_path / "pets"
    card = ["---", "configs:"]
    for seed, (name, count) in enumerate((("small", 40), ("large", 60))):
        (root / name).mkdir(parents=True)
        card += [f"- config_name: {name}", "  data_files:"]
        for number, split in enumerate(("train", "unseen", "extra")):
            pyarrow.parquet.write_table(rows(count, 3 * seed + number), root / name / f"{split}.parquet")
            card += [f"  - split: {split}", f"    path: {name}/{split}.parquet"]
    (root / "README.md").write_text("\n".join([*card, "---", ""]))
    return str(root)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"hub_config": "small"}, (28, 4, 8)),
        ({"hub_config": "large", "test_split": "unseen"}, (54, 6, 60)),
        ({"hub_config": "large", "test_split": "unseen", "val_split": "extra"}, (60, 60, 60)),
        ({"hub_config": "large", "train_split": "extra", "val_split": "train", "test_split": "unseen"}, (60, 60, 60)),
    ],
)
def test_the_data_set_and_the_splits_that_are_asked_for_are_read(options, sizes, two_sets):
    for _ in range(2):  # read, then from the cache
        data = load_images(two_sets, **options)
        assert (len(data.train), len(data.val), len(data.test)) == sizes
    trained_on = options.get("train_split", "train")
    expected = rows(
        60 if options["hub_config"] == "large" else 40,
        3 * (options["hub_config"] == "large") + ("train", "unseen", "extra").index(trained_on),
    )
    first = np.asarray(Image.open(io.BytesIO(expected["image"][int(data.train.ids[0])].as_py()["bytes"])))
    assert np.array_equal(data.train.arrays.images[data.train.ids[0]], first)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "holds several data sets: give --hub-config, one of small, large"),
        (
            {"hub_config": "midle"},
            "--hub-config midle: .* has no such data set: give --hub-config, one of small, large",
        ),
        (
            {"hub_config": "small", "test_split": "unsen"},
            "--test-split unsen: .* has no such split with images; did you mean unseen. there are train, unseen, extra",
        ),
        ({"hub_config": "small", "val_split": "extra", "test_split": "extra"}, "the split extra is given for two of"),
    ],
)
def test_what_is_not_there_is_answered_with_what_there_is(options, said, two_sets):
    with pytest.raises(UserError, match=said):
        load_images(two_sets, **options)


def test_a_folder_of_images_has_neither(tree, own_cache):
    with pytest.raises(UserError, match="--hub-config, --test-split: pets is no table; leave it out"):
        load_images(str(tree("cat", "dog")), hub_config="small", test_split="unseen")


def test_they_are_options_of_train_py():
    args = parse_train("--hub-config small --train-split a --val-split b --test-split c".split())
    assert (args.hub_config, args.train_split, args.val_split, args.test_split) == ("small", "a", "b", "c")
