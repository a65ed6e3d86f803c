"""Every file of a folder is read, or counted among those left out, in training and in infer.py."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from common.errors import UserError
from data.dataset import load_images
from data.folders import find_images, image_suffixes, left_out_in_words
from tests.conftest import predict, write_images

OTHERS = ("photo.heic", "photo2.HEIC", "clip.mp4", "noname")


def with_suffixes(folder: Path) -> int:
    """Pictures under names that are read though rare, made from 0.png; returns how many."""
    picture = Image.open(folder / "0.png").convert("RGB")
    names = ("a.jfif", "b.jpe", "c.jp2", "d.tga", "e.dib", "f.JPG", "__g.png", "h.ico")
    for name in names:
        kind = {"jfif": "JPEG", "jpe": "JPEG"}.get(name.rpartition(".")[2])
        picture.save(folder / name, format=kind, **({"sizes": [(8, 8)]} if name.endswith("ico") else {}))
    return len(names)


def with_others(folder: Path) -> None:
    """Files that are no images, and a link that leads nowhere."""
    for name in OTHERS:
        (folder / name).write_bytes(b"?")
    (folder / "gone.png").symlink_to(folder / "nothing.png")


def test_training_reads_what_pillow_reads_and_counts_the_rest(tree, own_cache):
    root = tree("cat", "dog")
    more = with_suffixes(root / "cat")
    for _ in range(2):  # decoded, then from the cache
        data = load_images(str(root), val_fraction=0)
        assert len(data.train) + len(data.test) == 20 + more and data.remarks == []
    with_others(root / "dog")
    write_images(root, 1)
    write_images(root / "__MACOSX" / "dog", 1)
    data = load_images(str(root), val_fraction=0)
    assert len(data.train) + len(data.test) == 20 + more
    (said,) = data.remarks
    assert said.startswith("note: 7 files left out (.heic 2, ")
    for reason in (".mp4 1", "without suffix 1", "broken links 1", "in __MACOSX/ 1", "beside the class folders 1"):
        assert reason in said


def test_infer_reads_the_same_and_says_the_same(capsys, best, tmp_path):
    write_images(tmp_path / "dog", 10)
    more = with_suffixes(tmp_path / "dog")
    with_others(tmp_path / "dog")
    code, out, err = predict(capsys, "--weights", best, tmp_path / "dog")
    assert (code, len(out.splitlines())) == (0, 10 + more)
    assert err.startswith("5 files left out (.heic 2, ") and err.count("\n") == 1
    paths, left_out = find_images([str(tmp_path / "dog"), str(tmp_path / "dog" / "photo.heic")])
    assert len(paths) == 11 + more and paths[-1].name == "photo.heic"  # named by itself, so tried
    assert left_out.total() == 5


def test_a_class_of_nothing_that_can_be_read_says_what_was_there(tree, own_cache):
    root = tree("cat", "dog")
    for number, path in enumerate(sorted((root / "dog").iterdir())):
        shutil.move(path, path.with_name(f"{number}.heic"))
    with pytest.raises(UserError, match=r"class folder .*dog holds no image \(10 files left out \(\.heic 10\)\)"):
        load_images(str(root))
    with pytest.raises(UserError, match=r"the folder .*dog holds no image \(10 files left out \(\.heic 10\)\)"):
        find_images([str(root / "dog")])


def test_the_suffixes_are_those_that_pillow_decodes():
    known = image_suffixes()
    assert {".jfif", ".jpe", ".jp2", ".tga", ".dib", ".ico", ".png", ".webp", ".pfm"} <= known
    assert not {".mpg", ".h5", ".eps", ".pdf", ".txt", ".heic"} & known


def test_many_reasons_are_cut_short():
    left_out = Counter({f".{letter}": 2 for letter in "abcdefgh"})
    assert left_out_in_words(left_out) == "16 files left out (.a 2, .b 2, .c 2, .d 2, .e 2, .f 2, ...)"
