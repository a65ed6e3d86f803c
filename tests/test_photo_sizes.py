"""Photos of many sizes: brought to the size that the model was made for, and what was done to them is said."""

import numpy as np
import pytest
import yaml
from PIL import Image

import train
from common.errors import UserError
from data import decode_all
from data.dataset import load_images
from data.pairs import load_pairs
from engine import build, load
from engine.checkpoints import best_weights
from options.train import parse_train
from tests.conftest import fresh_process, predict, write_images


@pytest.fixture
def photos(tree, own_cache):
    """Two classes of ten photos, of 30x20, 20x30 and 40x40 pixels."""
    root = tree("cat", "dog", count=8, size=(30, 20))
    for name in ("cat", "dog"):
        for number, size in ((8, (30, 20)), (9, (40, 40))):
            pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def loaded(*options):
    from accelerate import Accelerator

    fresh_process()
    args = parse_train(["--cpu", *map(str, options)])
    data = load.load_data(args, Accelerator(cpu=True))
    return build.resolve(args, data, 1), data


@pytest.mark.parametrize(
    "options, side",
    [
        ("--model cnn", 64),
        ("--model mlp", 64),
        ("--model timm/test_vit", 160),
        ("--model timm/resnet18", 224),
        ("--model timm/inception_v3", 299),
        ("--model timm/vit_tiny_patch16_224 --model-arg img_size=96", 96),
        ("--model timm/resnet18 --input-size 80", 80),
        ("--model timm/resnet18 --pretrained", 224),
        ("--model timm/resnet18 --image-size 48", 48),
    ],
)
def test_photos_are_brought_to_the_models_own_size(options, side, photos):
    args, data = loaded("--dataset", photos, *options.split())
    assert data.shape == (side, side, 3) and args.image_size == side
    whose = "" if "--image-size" in options else ", the model's own (--image-size gives another)"
    words = f"brought to {side}x{side}{whose}: shorter side resized, middle cut"
    assert data.remarks[0] == f"20 photos of 3 sizes, 30x20 to 40x40, {words}"


def test_images_of_one_size_stay_as_they_are_and_nothing_is_said(tree, own_cache):
    root = tree("cat", "dog", size=(30, 20))
    args, data = loaded("--dataset", root, "--model", "timm/resnet18")
    assert (data.shape, args.image_size, data.remarks) == ((20, 30, 3), None, [])
    _, data = loaded("--dataset", root, "--image-size", "64")
    assert data.remarks == [
        "20 photos of 30x20, brought to 64x64: shorter side resized, middle cut",
        "warning: --fit crop cuts off 33% of the median photo; --fit pad or stretch keeps it all",
    ]
    args, data = loaded("--dataset", root, "--model", "cnn")  # whose own size is the one that is now cached too
    assert (data.shape, args.image_size) == ((20, 30, 3), None)


def test_a_run_and_infer_agree_on_the_size_and_decode_once(photos, tmp_path, capsys, monkeypatch):
    fresh_process()
    options = ["--cpu", "--model", "cnn", "--epochs", "1", "--track", "none", "--output-dir", str(tmp_path)]
    train.main([*options, "--dataset", str(photos), "--run-name", "run"])
    assert "20 photos of 3 sizes, 30x20 to 40x40, brought to 64x64" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())["image_size"] == 64
    best = tmp_path / "run" / "best.pth"
    assert best_weights.load(best)["shape"] == [64, 64, 3]
    monkeypatch.setattr(decode_all, "to_array", None)  # any decoding would now raise
    again = load_images(str(photos), default_size=lambda: 64)
    assert again.remarks[0].startswith("20 photos of 3 sizes")
    code, out, _ = predict(capsys, "--weights", best)
    assert code == 0 and "20 photos of 3 sizes" in out
    assert predict(capsys, "--weights", best, photos / "cat")[0] == 0


def test_a_library_call_that_names_no_size_is_refused(photos):
    with pytest.raises(UserError, match=r"3 sizes .*from 20x30 to 40x40.*--image-size"):
        load_images(str(photos))


def mirrored(folder, sizes, scale=1):
    """Pairs of `sizes` (width, height) whose target is the input itself, `scale` times as large."""
    for number, size in enumerate(sizes):
        write_images(folder / "input" / str(number), 1, size=size, mode="L", seed=number)
        path = folder / "input" / str(number) / "0.png"
        path.rename(folder / "input" / f"{number}.png")
        path.parent.rmdir()
        target = Image.open(folder / "input" / f"{number}.png")
        (folder / "target").mkdir(exist_ok=True)
        width, height = (int(scale * side) for side in size)
        target.resize((width, height), Image.Resampling.BOX).save(folder / "target" / f"{number}.png")
    return folder


@pytest.mark.parametrize("sizes", [[(32, 16)], [(32, 16), (16, 32), (24, 24)]], ids=["one size", "many"])
def test_the_same_part_of_input_and_target_is_kept(sizes, tmp_path):
    data = load_pairs(str(mirrored(tmp_path / "pairs", sizes * 10)), image_size=16)
    for part in (data.train, data.val, data.test):
        labels = part.arrays.labels[part.ids]
        assert np.array_equal(part.arrays.images[part.ids], data.targets[labels])


@pytest.mark.parametrize("scale, side", [(0.5, 8), (2, 32)])
def test_a_target_that_is_a_share_of_its_input_stays_that_share(scale, side, tmp_path):
    folder = mirrored(tmp_path / "pairs", [(32, 16), (16, 33), (25, 24)] * 10, scale)
    data = load_pairs(str(folder), default_size=lambda: 16)
    assert data.shape == (16, 16, 1) and data.targets.shape == (30, side, side, 1) and data.image_size == 16
    assert data.remarks[0].startswith("30 photos of 3 sizes, 32x16 to 25x24, brought to 16x16, the model's own")
    means = data.train.arrays.images.mean((1, 2, 3)), data.targets[data.train.arrays.labels].mean((1, 2, 3))
    assert np.corrcoef(*means)[0, 1] > 0.9


def test_targets_of_another_form_than_their_inputs_are_refused_by_name(tmp_path):
    folder = mirrored(tmp_path / "pairs", [(32, 16)] * 10)
    Image.new("L", (32, 32)).save(folder / "target" / "7.png")
    with pytest.raises(UserError, match=r"target/7\.png is of 32x32 pixels and its input of 32x16"):
        load_pairs(str(folder), image_size=16)
    with pytest.raises(UserError, match="the inputs have 1 sizes and the targets 2: give --image-size"):
        load_pairs(str(folder))
