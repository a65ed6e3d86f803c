"""--task transform learns from pairs what it is not told; its targets are torchvision's; its figures are right."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import bench
import train
from benches import transform
from data.transforms import with_torchvision
from data.transforms.spec import TRANSFORMS, parse
from models.separable_map import SeparableMap
from tasks.image_to_image.metrics import test_metrics as metrics_of
from tasks.image_to_image.metrics import test_sums as sums_of
from tasks.image_to_image.task import Maker, Transformation
from tasks.metric_sums import add
from tests.conftest import fresh_process, predict, refusal, write_images

LEARN = "--task transform --model separable_map --cpu --mixed-precision no --track none --weight-decay 0".split()
UPSIDE_DOWN = ["--transform", "resize=6,vflip,hflip", "--lr", "0.03", "--schedule", "linear", "--batch-size", "32"]


def learn(place: Path, *options: str) -> dict:
    """Train, and return test.json."""
    fresh_process()
    train.main([*LEARN, "--output-dir", str(place), "--run-name", "run", *map(str, options)])
    return json.loads((place / "run" / "test.json").read_text())


def refused(capsys, place: Path, *options: str) -> str:
    """The one line with which train.py refuses options, having written nothing."""
    fresh_process()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        train.main([*LEARN, "--output-dir", str(place / "out"), *map(str, options)])
    out, err = capsys.readouterr()
    assert (ended.value.code, err.count("\n")) == (2, 1), out + err
    assert not (place / "out").exists()
    return err


@pytest.fixture(scope="module")
def learnt(tmp_path_factory) -> Path:
    """The folder of a run that learnt to shrink digits and turn them upside down."""
    place = tmp_path_factory.mktemp("learnt")
    learn(place, *UPSIDE_DOWN, "--epochs", "40")
    return place / "run"


def test_a_map_is_learnt_from_pairs_alone(learnt: Path) -> None:
    test = json.loads((learnt / "test.json").read_text())
    # Not all: pixels in the margin that are white in all scans but one or two can be learnt from these alone.
    assert test["accuracy"] > 0.99 and test["within_0.01"] > 0.98 and test["ssim"] > 0.99
    assert {path.name for path in learnt.glob("*.png")} == {"accuracy.png", "curves.png", "examples.png", "loss.png"}


@pytest.mark.slow
def test_what_is_not_linear_needs_the_pointwise_nets(tmp_path: Path) -> None:
    options = ["--transform", "gamma=3,vflip", "--lr", "0.01", "--batch-size", "32", "--epochs", "60"]
    linear = learn(tmp_path / "linear", *options)
    general = learn(tmp_path / "general", *options, "--model-arg", "hidden=32")
    assert linear["accuracy"] < 0.8 and general["accuracy"] > 0.97


def test_the_reported_net_is_worse(learnt: Path, tmp_path: Path) -> None:
    options = ["--model", "conv_translator", "--transform", "resize=6,vflip,hflip", "--epochs", "10"]
    reported = learn(tmp_path, *options, "--lr", "0.002")
    assert reported["accuracy"] < json.loads((learnt / "test.json").read_text())["accuracy"] - 0.05


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_target_is_what_torchvision_makes_of_the_one_image(name: str) -> None:
    """Whole batches of tensors differ from PIL, image after image, by rounding at most."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 9, 3), dtype=np.uint8)
    transforms = parse(f"{name}=5" if TRANSFORMS[name].default is None and TRANSFORMS[name].limits else name)
    batch = with_torchvision.apply(transforms, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    for image, found in zip(pixels, batch, strict=True):
        alone = np.asarray(with_torchvision.apply(transforms, Image.fromarray(image)))
        alone = alone[..., None] if alone.ndim == 2 else alone
        assert alone.shape == tuple(found.permute(1, 2, 0).shape)
        assert np.abs(alone.astype(int) - found.permute(1, 2, 0).numpy()).max() <= 1


def values(sums: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in sums.items()}


def test_figures_are_those_of_their_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(7, 2, 12, 9, generator=generator)
    outputs = (targets + 0.05 * torch.randn(targets.shape, generator=generator)).clamp(0, 1)
    found = metrics_of(values(add(sums_of(outputs[:3], targets[:3]), sums_of(outputs[3:], targets[3:]))))
    error = (outputs - targets).abs().double().numpy()
    assert found["samples"] == 7
    assert found["accuracy"] == pytest.approx((error < 0.05).mean())
    assert found["within_0.01"] == pytest.approx((error < 0.01).mean())
    assert found["loss"] == pytest.approx(error.mean())
    assert found["psnr"] == pytest.approx(10 * np.log10(1 / (error**2).mean()))
    assert 0 < found["ssim"] < 1
    same = metrics_of(values(sums_of(targets, targets)))
    assert (same["accuracy"], same["loss"], same["psnr"]) == (1, 0, None) and same["ssim"] == pytest.approx(1)
    small = metrics_of(values(sums_of(targets[..., :5], targets[..., :5])))
    assert small["ssim"] is None and small["accuracy"] == 1


def test_infer_repeats_the_test_and_writes_the_images_of_any_folder(learnt: Path, tmp_path: Path, capsys) -> None:
    alone = tmp_path / "my weights" / "best.pth"
    alone.parent.mkdir()
    shutil.copy(learnt / "best.pth", alone)
    code, out, err = predict(capsys, "--weights", alone)
    assert (code, err) == (0, "")
    before, again = (json.loads(p.read_text()) for p in (learnt / "test.json", alone.parent / "best-test/test.json"))
    for speed in ("seconds", "images_per_second"):
        assert before.pop(speed) > 0 and again.pop(speed) > 0
    assert again == before
    shares = f"{100 * before['accuracy']:.3f} % within 0.05 and {100 * before['within_0.01']:.3f} % within 0.01"
    assert out.startswith(f"test: {shares} of the target, PSNR ")

    write_images(tmp_path / "my photos" / "a", 3, mode="L")
    write_images(tmp_path / "my photos" / "b", 1, mode="L")
    (tmp_path / "my photos" / "b" / "0.jpg").write_bytes(b"no image")
    shutil.copy(tmp_path / "my photos" / "a" / "0.png", tmp_path / "my photos" / "b" / "0.bmp")
    code, out, err = predict(capsys, "--weights", alone, tmp_path / "my photos", "--output", tmp_path / "made")
    assert code == 1 and "0.jpg" in err and "5 images written to" in out
    made = {str(path.relative_to(tmp_path / "made")) for path in (tmp_path / "made").rglob("*.*")}
    assert made == {"a/0.png", "a/1.png", "a/2.png", "b/0.png", "b/0.bmp.png"}

    scan = (load_digits().images[7] * (255 / 16)).round().astype(np.uint8)
    Image.fromarray(scan).save(tmp_path / "7.png")
    assert predict(capsys, "--weights", alone, tmp_path / "7.png")[0] == 0
    wanted = with_torchvision.apply(parse("resize=6,vflip,hflip"), torch.from_numpy(scan)[None, None])[0, 0]
    found = np.asarray(Image.open(alone.parent / "best-images" / "7.png"))
    assert np.abs(found.astype(int) - wanted.numpy()).mean() < 1  # of 255


@pytest.mark.parametrize(
    ("channels", "out_channels", "hidden"), [(3, 1, 0), (3, 3, 0), (1, 1, 0), (3, 1, 8), (1, 3, 8)]
)
def test_the_map_of_bytes_makes_the_pixels_of_the_map(channels: int, out_channels: int, hidden: int) -> None:
    """With all folded into two products, a number that lies between two bytes may round to the other one."""
    output_shape, values = (out_channels, 5, 7), [0.2, 0.5, 0.7][:channels]
    task = Transformation(
        transforms=[],
        output_shape=output_shape,
        shape=(9, 8, channels),
        class_names=[],
        mean=values,
        std=values,
        device=torch.device("cpu"),
    )
    torch.manual_seed(0)
    model = SeparableMap(input_shape=(channels, 9, 8), output_shape=output_shape, hidden=hidden).eval()
    pixels = torch.randint(0, 256, (50, 9, 8, channels), dtype=torch.uint8)
    with torch.no_grad():
        for parameter in model.parameters():  # the pointwise nets begin as nothing
            parameter.copy_(0.3 * torch.randn_like(parameter))
        expected, found = Maker(task, model)(pixels), task.maker(model)(pixels)
    assert found.dtype == torch.uint8 and found.shape == expected.shape == (50, 5, 7, out_channels)
    assert (found.int() - expected.int()).abs().max() <= 1 and (found == expected).float().mean() > 0.999
    assert ((expected > 0) & (expected < 255)).float().mean() > 0.1


def test_bench_times_weights_on_the_test_images_of_their_run(learnt: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(transform, "MODES", {"eager": transform.MODES["eager"]})
    fresh_process()
    weights = str(learnt / "best.pth")
    with pytest.raises(SystemExit) as ended:
        bench.main(
            [
                "--cpu",
                "--rounds",
                "1",
                "--budget",
                "100000",
                "--weights",
                weights,
                weights,
                "--output-dir",
                str(tmp_path / "out"),
            ]
        )
    out, test = capsys.readouterr().out, json.loads((learnt / "test.json").read_text())
    assert not ended.value.code
    assert f"transform: resize=6,vflip,hflip, {test['samples']} test images of digits; weights: {weights}" in out
    (section,) = json.loads((tmp_path / "out" / "bench.json").read_text())["benches"]
    (row,) = [row for row in section["rows"] if row["variant"].endswith(f"folded, eager, fp32, by {test['samples']}")]
    # The test's figures are of numbers that are not rounded to pixels yet.
    assert row["accuracy"]["within_0.05"] == pytest.approx(test["accuracy"], abs=0.003)
    assert row["accuracy"]["within_0.01"] == pytest.approx(test["within_0.01"], abs=0.01)


def paired(place: Path, count: int = 60, size: tuple[int, int] = (8, 8)) -> Path:
    """A folder of noise and its mirror images, in colour and in other file formats."""
    write_images(place / "input", count, size=size)
    (place / "target").mkdir()
    for path in sorted((place / "input").iterdir()):
        mirrored = Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mirrored.save(place / "target" / f"{path.stem}.bmp")
    return place


def test_pairs_of_ones_own_are_learnt_and_tested_on_what_is_held_out(tmp_path: Path, capsys) -> None:
    folder = paired(tmp_path / "my pairs", count=200)
    options = ["--dataset", folder, "--epochs", "60", "--batch-size", "16", "--lr", "0.02", "--schedule", "linear"]
    test = learn(tmp_path, *options)
    assert test["accuracy"] > 0.99
    notes = test["data"]
    assert (notes["train_images"], notes["val_images"], notes["test_images"]) == (144, 16, 40)
    assert "200" not in capsys.readouterr().err
    code, out, _ = predict(capsys, "--weights", tmp_path / "run" / "best.pth")
    assert code == 0 and "40 images" in out
    fresh_process()
    resumed = train.main(["--resume", str(tmp_path / "run"), "--cpu"])  # done and reported: there is nothing to do
    assert resumed["accuracy"] == test["accuracy"]


def test_pairs_that_do_not_match_are_refused_by_name(tmp_path: Path, capsys) -> None:
    folder = paired(tmp_path / "pairs")
    (folder / "target" / "3.bmp").unlink()
    (folder / "target" / "77.bmp").write_bytes((folder / "target" / "4.bmp").read_bytes())
    line = refused(capsys, tmp_path, "--dataset", folder)
    assert "2 images are only in one of the two: 3, 77" in line
    (folder / "target" / "77.bmp").unlink()
    (folder / "input" / "3.png").write_bytes(b"no image")
    shutil.copy(folder / "target" / "4.bmp", folder / "target" / "3.bmp")
    assert "1 images cannot be read; fix or remove their pairs" in refused(capsys, tmp_path, "--dataset", folder)
    Image.new("RGB", (9, 8)).save(folder / "input" / "3.png")
    assert "2 sizes" in refused(capsys, tmp_path, "--dataset", folder)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--transform swirl", "no transform is called 'swirl': there are resize=N"),
        ("--transform resize", "resize needs its number"),
        ("--transform vflip=2", "vflip takes no number"),
        ("--transform blur=4", "an odd number"),
        ("--transform posterize=9", "give a number (bits kept"),
        ("--transform vflip --model cnn", "it makes no images: give one of separable_map, conv_translator"),
        ("--transform vflip --model timm/resnet18", "it makes no images"),
        ("--transform vflip --augment mixup", "leave them out"),
        ("--transform vflip --tta flip --label-smoothing 0.1", "--label-smoothing, --tta: of no use"),
        ("--task classify --transform vflip", "--transform needs --task transform"),
        ("--task classify", "it makes images, not classes"),
        ("--folds 3", "of no use for pairs"),
        ("--dataset digits", "needs a folder of pairs, input/ and target/"),
    ],
)
def test_bad_input_is_one_line(options: str, says: str, tmp_path: Path, capsys) -> None:
    assert says in refused(capsys, tmp_path, *options.split())


def test_infer_refuses_what_means_nothing_to_images(learnt: Path, tmp_path: Path, capsys) -> None:
    weights = ("--weights", learnt / "best.pth")
    assert "--tta: these weights make images" in refusal(capsys, *weights, "--tta", "flip")
    assert "--output is where predicted images go" in refusal(capsys, *weights, "--output", tmp_path / "x")
    (tmp_path / "file").write_text("")
    write_images(tmp_path / "a", 1)
    assert "is a file" in refusal(capsys, *weights, tmp_path / "a", "--output", tmp_path / "file")
    before = (tmp_path / "a" / "0.png").read_bytes()
    assert "0.png would be written over" in refusal(capsys, *weights, tmp_path / "a", "--output", tmp_path / "a")
    assert (tmp_path / "a" / "0.png").read_bytes() == before
    for name in ("b.jpg", "b.jpg.png"):
        (tmp_path / "a" / name).write_bytes(before)
    line = refusal(capsys, *weights, tmp_path / "a", "--output", tmp_path / "made")
    assert "b.jpg and" in line and "would both become" in line
