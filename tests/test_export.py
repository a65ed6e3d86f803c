"""Exported files answer as the model itself does, for pictures of any size, or are not written."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import deploy.job
from common.errors import UserError
from data.decode import to_array
from data.geometry import Geometry
from deploy import formats, weights_folder
from deploy.classifier import build_classifier
from deploy.load import load
from deploy.pictures import as_of_files
from engine.checkpoints import best_weights
from models import MODELS
from models.factory import create_model
from tests.conftest import REPOSITORY, changed, fresh_process, predict

EXPORT_PY = REPOSITORY / "export.py"
SIZES = ((32, 32), (16, 24), (20, 60), (61, 40), (7, 90), (1, 1), (150, 100), (3, 3))  # height, width
# Small members of families that differ: residual, depthwise, attention, windows, mixers, normalisation-free.
FAMILIES = (
    *("test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_nfnet", "efficientvit_m0"),
    *(
        "mobilenetv3_small_050",
        "resnet18",
        "densenet121",
        "regnetx_002",
        "mixer_s32_224",
        "coat_lite_tiny",
        "ghostnet_050",
    ),
)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Colours that run smoothly, with noise: uint8 (height, width, 3)."""
    random = np.random.default_rng([seed, height, width])
    rough = random.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return (smooth + random.integers(-20, 20, smooth.shape)).clip(0, 255).astype(np.uint8)


def run_export(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    """Run export.py: (exit code, standard output, standard error)."""
    import runpy

    fresh_process()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXPORT_PY))["main"]([str(argument) for argument in arguments])
    return ended.value.code or 0, *capsys.readouterr()


def refusal(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line with which export.py refuses `arguments`."""
    code, out, err = run_export(capsys, *arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1, err
    return err


def content_of(best: Path, name: str, shape: tuple[int, int, int], geometry: Geometry, **more) -> dict:
    """What a best.pth of an untrained model holds, whose answers differ from picture to picture."""
    torch.manual_seed(0)
    channels, options = shape[2], best_weights.load(best)["options"] | more.pop("options", {})
    model_args = more.pop("model_args", {})
    content = {
        "model": name,
        "model_args": model_args,
        "shape": list(shape),
        "class_names": ["cat", "dog", "ein Vogel, größer"],
        "mean": [0.45, 0.5, 0.4][:channels],
        "std": [0.2, 0.25, 0.3][:channels],
        "options": options,
        "mixed_precision": "no",
        "geometry": geometry.as_dict(),
        **more,
    }
    side = options.get("input_size")
    input_shape = (channels, side or shape[0], side or shape[1])
    model = create_model(name, input_shape=input_shape, num_classes=3, **model_args).eval()
    with torch.no_grad():
        noise = torch.randn(8, *input_shape)
        *_, weight, bias = model.parameters()  # of the last layer, which may have no bias
        layer = weight if bias.ndim == 1 else bias
        layer.normal_()  # timm begins some with zeros
        layer.mul_(1 / model(noise).std(0).mean())
        if layer is weight:
            bias.sub_(model(noise).mean(0))
    return content | {"weights": model.state_dict()}


def restored(content: dict) -> tuple:
    """(classifier, model, task) of a best.pth's content."""
    model, task = best_weights.restore(content, "best.pth")
    model.eval()
    return build_classifier(model, task), model, task


def answer(content: dict, model: torch.nn.Module, task: object, pictures: np.ndarray) -> np.ndarray:
    """What infer.py says of one picture, or of several of a size: read by Pillow, computed by the task."""
    channels, size = task.image_shape[2], task.image_shape[:2]
    images = np.stack([to_array(Image.fromarray(p), channels, size, None, task.geometry) for p in pictures])
    with torch.no_grad():
        logits = task.predict(model, torch.from_numpy(images))
    return (logits / content.get("temperature", 1.0)).softmax(1).numpy()


@pytest.mark.parametrize("channels", (1, 3))
@pytest.mark.parametrize(
    "geometry",
    (Geometry(), Geometry(crop_pct=0.875), Geometry("pad", fill=(120, 3, 200)), Geometry("pad"), Geometry("stretch")),
    ids=("crop", "crop_pct", "pad", "pad_black", "stretch"),
)
def test_pictures_are_prepared_as_pillow_prepares_them(best, geometry, channels):
    if channels == 1 and geometry.fill:
        geometry = Geometry("pad", fill=(77,))
    size = (32, 24)
    content = content_of(best, "mlp", (*size, channels), geometry, mean=[0.0] * channels, std=[1 / 255] * channels)
    prepare = restored(content)[0].prepare
    for height, width in SIZES:
        pixels = picture(height, width)
        wanted = to_array(Image.fromarray(pixels), channels, size, None, geometry).astype(int)
        found = prepare(torch.from_numpy(pixels)[None])[0].permute(1, 2, 0).numpy()
        apart = np.abs(found - wanted)
        if height - size[0] > width - size[1]:  # Pillow 13 resizes such pictures vertically first
            assert apart.max() <= 3 and apart.mean() < 0.5, (height, width)
        else:
            assert apart.max() < 1e-3, (height, width)  # but for the rounding of the normalisation
        other = Geometry("pad" if geometry.fit == "stretch" else "stretch")
        unlike = to_array(Image.fromarray(pixels), channels, size, None, other).astype(int)
        if (height, width) != (1, 1) and height * size[1] != width * size[0]:
            assert np.abs(found - unlike).max() > 5, (height, width)  # so the comparison can fail


@pytest.mark.parametrize("interpolation", ("bilinear", "bicubic"))
def test_images_kept_at_another_size_than_the_models_are_resized_as_the_task_does(best, interpolation):
    options = {"input_size": 40, "interpolation": interpolation}
    plain = {"mean": [0.0] * 3, "std": [1 / 255] * 3}
    content = content_of(best, "mlp", (28, 28, 3), Geometry(), options=options, **plain)
    classifier, _, task = restored(content)
    images = torch.from_numpy(picture(28, 28))[None]
    found = classifier.prepare(images)
    assert found.shape == (1, 3, 40, 40)
    assert (found - task.inputs(images)).abs().max() < 1e-3


@pytest.fixture(scope="module")
def files(run_folder, tmp_path_factory):
    """All that can be written of the digits' run, with what export.py printed."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SAMELOOP_DATA", raising=False)
        import contextlib
        import io
        import runpy

        fresh_process()
        printed = io.StringIO()
        arguments = ["--weights", run_folder, "--format", ",".join(("onnx", "pt2", "torchscript", "safetensors"))]
        with pytest.raises(SystemExit) as ended, contextlib.redirect_stdout(printed):
            main = runpy.run_path(str(EXPORT_PY))["main"]
            main([*map(str, arguments), "--int8", "--calibrate", "64", "--output", str(folder)])
    assert not ended.value.code
    return folder, printed.getvalue()


def test_each_file_is_in_the_table_with_its_agreement_and_accuracy(files, run_folder):
    folder, printed = files
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    table = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}
    names = ("model.onnx", "model.pt2", "model.torchscript", "safetensors/")
    assert list(table) == ["best.pth", *names, "model-int8.onnx"]
    test = json.loads((run_folder / "test.json").read_text())
    assert table["best.pth"]["accuracy"] == f"{100 * test['accuracy']:.2f} %"
    for name in names:
        assert table[name]["same class"] == "100.00 %" and float(table[name]["largest difference"]) < 1e-5
        assert table[name]["accuracy"] == table["best.pth"]["accuracy"]
    assert 1e-5 < float(table["model-int8.onnx"]["largest difference"]) < 0.5  # it is rounded, and of use
    assert (folder / "model-int8.onnx").is_file()
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("name", formats.FILE_NAMES.values())
def test_a_file_answers_as_infer_does_with_the_names_of_the_classes(capsys, files, best, tmp_path, name):
    exported = load(files[0] / name)
    assert exported.class_names == [str(digit) for digit in range(10)]
    photos = tmp_path / "photos"
    photos.mkdir()
    sizes = ((8, 8), (8, 8), (5, 5), (30, 20), (20, 30), (1, 40), (64, 64))
    for seed, size in enumerate(sizes):
        Image.fromarray(picture(*size, seed)).save(photos / f"{seed}.png")
    predict(capsys, "--weights", best, "--topk", 10, "--mixed-precision", "no", "--output", tmp_path / "a.json", photos)
    rows = json.loads((tmp_path / "a.json").read_text())
    for row, size in zip(rows, sizes, strict=True):
        said = {entry["class"]: entry["probability"] for entry in row["predictions"]}
        expected = np.array([said[name] for name in exported.class_names])
        found = exported.predict(np.asarray(Image.open(row["image"]))[None])[0]
        assert found.dtype == np.float32 and abs(found.sum() - 1) < 1e-5
        assert np.abs(found - expected).max() < (1e-5 if size == (8, 8) else 0.02), size
    several = np.stack([picture(9, 13, seed) for seed in range(5)])
    one_by_one = np.concatenate([exported.predict(several[i : i + 1]) for i in range(5)])
    assert np.abs(exported.predict(several) - one_by_one).max() < 1e-5


def test_an_onnx_file_is_read_without_us(files):
    import onnxruntime

    session = onnxruntime.InferenceSession(files[0] / "model.onnx")
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("pictures", "tensor(uint8)", ["batch", "height", "width", 3])
    assert (made.name, made.type, made.shape) == ("probabilities", "tensor(float)", ["batch", 10])
    names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
    assert names == [str(digit) for digit in range(10)]


def test_files_tell_no_folder_of_this_machine(files):
    for path in files[0].rglob("*"):
        if path.is_file():
            assert str(REPOSITORY).encode() not in path.read_bytes(), path


@pytest.mark.parametrize("fit", ("crop", "pad", "stretch"))
# An ONNX file is made of the program that a pt2 file is.
@pytest.mark.parametrize("format", ("onnx", pytest.param("pt2", marks=pytest.mark.slow), "torchscript"))
def test_colour_temperature_and_views_are_in_the_file(best, tmp_path, format, fit):
    geometry = Geometry(fit, 0.875 if fit == "crop" else 1.0, (9, 99, 200) if fit == "pad" else None)
    options = {"tta": "flip", "channels_last": True}
    content = content_of(best, "cnn", (16, 20, 3), geometry, temperature=2.5, options=options, model_args={"width": 8})
    classifier, model, task = restored(content)
    path = tmp_path / formats.FILE_NAMES[format]
    path.write_bytes(formats.encode(format, classifier, content["class_names"]))
    exported = load(path)
    assert exported.class_names == content["class_names"]
    for size, bound in (((16, 20), 1e-5), ((16, 60), 1e-3), ((50, 40), 0.02), ((1, 1), 1e-3)):
        pictures = np.stack([picture(*size, seed) for seed in range(3)])
        expected = answer(content, model, task, pictures)
        found = exported.predict(pictures)
        assert np.abs(found - expected).max() < (1e-5 if fit == "crop" and size == (1, 1) else bound), size
        warm = answer(content | {"temperature": 1.0}, model, task, pictures)
        task.tta = "none"
        one_view = answer(content, model, task, pictures)
        task.tta = "flip"
        if size == (16, 20):  # so the comparison can fail
            assert np.abs(found - warm).max() > 1e-2 and np.abs(found - one_view).max() > 1e-3


@pytest.mark.parametrize("broken", ("mean", "nan"))
def test_a_file_that_differs_is_not_kept_and_the_exit_code_is_1(capsys, monkeypatch, best, tmp_path, broken):
    build = deploy.job.build_classifier

    def built(*arguments):
        classifier = build(*arguments)
        with torch.no_grad():
            classifier.prepare.shift += 0.05 if broken == "mean" else float("nan")
        return classifier

    old = tmp_path / "out"
    old.mkdir()
    (old / "model.torchscript").write_text("of an earlier export")
    arguments = ("--weights", best, "--format", "torchscript", "--limit-test", 20)
    monkeypatch.setattr(deploy.job, "build_classifier", built)
    code, out, err = run_export(capsys, *arguments, "--output", old)
    assert code == 1
    assert err.startswith("error: model.torchscript: a probability differs by ") and err.count("\n") == 1
    assert "| model.torchscript |" in out and "written" not in out
    assert [path.name for path in old.iterdir()] == ["model.torchscript"]
    assert (old / "model.torchscript").read_text() == "of an earlier export"
    assert run_export(capsys, *arguments, "--output", tmp_path / "new")[0] == 1
    assert not (tmp_path / "new").exists()
    if broken == "mean":  # a tolerance that allows for it keeps the file
        assert run_export(capsys, *arguments, "--output", tmp_path / "new", "--tolerance", 1)[0] == 0
        assert (tmp_path / "new" / "model.torchscript").is_file()


def test_images_of_your_own_are_checked_in_their_own_size_too(capsys, best, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed, size in enumerate(((8, 8), (30, 20), (20, 50))):
        Image.fromarray(picture(*size, seed)).save(photos / f"{seed}.png")
    (photos / "bad.png").write_text("no picture")
    arguments = ("--weights", best, "--format", "torchscript", "--check", photos, "--output", tmp_path / "out")
    code, out, err = run_export(capsys, *arguments)
    assert code == 0 and "own size: same class" in out and "accuracy" not in out
    assert f"cannot read {photos / 'bad.png'}" in err and err.endswith("1 of 4 images could not be read\n")
    assert "no image can be read there" in refusal(
        capsys, "--weights", best, "--check", photos / "bad.png", "--output", tmp_path / "none"
    )
    assert not (tmp_path / "none").exists()


def test_the_test_split_which_is_cut_already_is_not_cut_again(best):
    content = content_of(best, "mlp", (28, 28, 3), Geometry(crop_pct=0.875))
    _, _, task = restored(content)
    images = np.stack([picture(28, 28, seed) for seed in range(2)])
    pictures, again = as_of_files(images, task)
    assert pictures.shape == (2, 32, 32, 3) and np.array_equal(again, images)
    task.geometry = Geometry(crop_pct=0.9)  # of 31.1 pixels, which no picture has
    pictures, again = as_of_files(images, task)
    assert pictures.shape[1:3] in ((31, 31), (32, 32)) and np.abs(again.astype(int) - images).mean() < 12
    task.geometry = Geometry("pad")
    assert as_of_files(images, task)[1] is images


def test_mistakes_are_one_line(capsys, monkeypatch, best, tmp_path):
    weights = ("--weights", best)
    assert "unknown format 'tflite': give some of onnx, pt2" in refusal(capsys, *weights, "--format", "onnx,tflite")
    assert "add onnx to --format" in refusal(capsys, *weights, "--format", "pt2", "--int8")
    assert "leave one of them out" in refusal(capsys, *weights, "--check", tmp_path, "--limit-test", 3)
    assert "out of range" in refusal(capsys, *weights, "--tolerance", 2)
    assert "give a run's best.pth" in refusal(capsys, "--weights", tmp_path / "absent.pth")
    options = best_weights.load(best)["options"]
    other = changed(best, tmp_path / "other.pth", options=options | {"task": "multilabel"})
    assert "of --task multilabel, and only classifiers can be exported" in refusal(capsys, "--weights", other)
    gone = changed(best, tmp_path / "gone.pth", options=options | {"dataset": str(tmp_path / "gone")})
    assert "(or give --check IMAGE|FOLDER)" in refusal(capsys, "--weights", gone)
    (tmp_path / "file").touch()
    assert "--output" in refusal(capsys, *weights, "--format", "pt2", "--output", tmp_path / "file")
    find_spec = formats.importlib.util.find_spec
    without = lambda name: None if name.startswith("onnx") else find_spec(name)  # noqa: E731
    monkeypatch.setattr(formats.importlib.util, "find_spec", without)
    assert "pip install onnx onnxscript onnxruntime" in refusal(capsys, *weights)


def test_a_model_that_cannot_be_recorded_is_one_line_that_names_the_format(capsys, monkeypatch, best, tmp_path):
    def forward(self, images):
        return self.linear(images) if images.sum() > 0 else images

    monkeypatch.setattr("models.cnn.CNN.forward", forward)
    classifier = restored(best_weights.load(best))[0]
    with pytest.raises(UserError, match=r"--format pt2: the model cannot be written so .*; leave it out"):
        formats.encode("pt2", classifier, ["a", "b"])


@pytest.mark.parametrize("path", ("model.bin", "absent.onnx", "damaged.onnx", "damaged.pt2", "damaged.torchscript"))
def test_what_is_no_exported_file_is_refused_in_words(tmp_path, path):
    if path.startswith("damaged"):
        (tmp_path / path).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"must end in|there is no such file|not a file of export\.py"):
        load(tmp_path / path)


@pytest.mark.parametrize("name", ("timm/test_vit", "timm/test_resnet"))
def test_safetensors_of_a_timm_model_are_loaded_by_timm(best, tmp_path, name):
    content = content_of(best, name, (32, 32, 3), Geometry("pad"), model_args={"drop_rate": 0.1})
    _, model, task = restored(content)
    weights_folder.write(tmp_path / "safetensors", content, model, task)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'safetensors'}", pretrained=True).eval()
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
    inputs = torch.randn(2, 3, 32, 32)
    with torch.no_grad():  # a kernel may round by where in memory the weights are
        torch.testing.assert_close(loaded(inputs), model(inputs), rtol=1e-5, atol=1e-5)
    assert loaded.pretrained_cfg["label_names"] == content["class_names"]
    config = timm.data.resolve_data_config({}, model=loaded)
    assert (config["mean"], config["crop_mode"], config["input_size"]) == (content["mean"], "border", (3, 32, 32))
    fresh = timm.create_model(f"local-dir:{tmp_path / 'safetensors'}", pretrained=True, num_classes=7)
    assert fresh(inputs).shape == (2, 7)


def test_safetensors_of_our_models_say_what_they_are(files):
    config = json.loads((files[0] / "safetensors" / "config.json").read_text())
    assert (config["library"], config["model"], config["input_shape"]) == ("sameloop", "cnn", [1, 8, 8])
    assert config["class_names"] == [str(digit) for digit in range(10)]


def agrees(content: dict, place: Path) -> None:
    """Write every format, and compare each with the model itself."""
    classifier, model, task = restored(content)
    height, width, _ = task.image_shape
    pictures = np.stack([picture(height, width, seed) for seed in range(3)])
    expected = answer(content, model, task, pictures)
    for format, name in formats.FILE_NAMES.items():
        (place / name).write_bytes(formats.encode(format, classifier, content["class_names"]))
        exported = load(place / name)
        assert np.abs(exported.predict(pictures) - expected).max() < 1e-4, format
        assert exported.predict(picture(height + 9, width + 20)[None]).shape == (1, 3)
    again = weights_folder.write(place / "safetensors", content, model, task)
    with torch.no_grad():
        inputs = task.inputs(torch.from_numpy(pictures))
        assert torch.equal(again(inputs), model(inputs))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_ours_is_exported(best, tmp_path, name):
    agrees(content_of(best, name, (32, 32, 3), Geometry(crop_pct=0.9)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_timm_models_are_exported(best, tmp_path, name):
    side = 224 if name in ("mixer_s32_224", "efficientvit_m0") else 64
    agrees(content_of(best, f"timm/{name}", (side, side, 3), Geometry()), tmp_path)
