"""Labels mean the same class in every split, in a resumed run and in a model: by name, or the run does not start."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data.dataset import load_images
from engine.checkpoints.store import load_weights
from models.factory import create_model


def write_split(folder: Path, split: str, names: list[str]) -> None:
    """A parquet file as the Hub has it: ten images, labels 0 and 1 called `names`."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    generator = np.random.default_rng(len(split))
    images = [Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(10)]
    table = datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 5}, features=features)
    folder.mkdir(exist_ok=True)
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def test_equal_classes_are_taken(tmp_path: Path, own_cache: Path) -> None:
    for split in ("train", "test"):
        write_split(tmp_path / "pets", split, ["cat", "dog"])
    assert load_images(str(tmp_path / "pets"), val_fraction=0).class_names == ["cat", "dog"]


@pytest.mark.parametrize("names", [["dog", "cat"], ["cat", "owl"], ["cat", "dog", "owl"]])
def test_classes_in_another_order_or_of_other_names_are_refused(
    tmp_path: Path, own_cache: Path, names: list[str]
) -> None:
    write_split(tmp_path / "pets", "train", ["cat", "dog"])
    write_split(tmp_path / "pets", "test", names)
    with pytest.raises(UserError, match=r"test"):
        load_images(str(tmp_path / "pets"), val_fraction=0)


def test_hidden_folders_are_no_classes(tree: object, own_cache: Path) -> None:
    folder = tree("cat", "dog", ".thumbnails", "__MACOSX")
    assert load_images(str(folder), val_fraction=0).class_names == ["cat", "dog"]


def test_weights_with_another_head_are_refused_by_name() -> None:
    ten, two = (create_model("mlp", input_shape=(1, 8, 8), num_classes=classes) for classes in (10, 2))
    with pytest.raises(UserError, match=r"other model or class count: layers\.\d+\.weight is \(10, 128\)"):
        load_weights(two, ten.state_dict(), "step-5")
