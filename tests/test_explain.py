"""Heat maps are what the methods' papers say, sit on the right layer, and come with a figure of faithfulness."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import models
from engine.checkpoints import best_weights
from explain import faithfulness
from explain.layers import find_layer
from explain.methods import compute_maps, integrated_gradients
from explain.pictures import heat
from models.factory import create_model
from options.infer import CAMS, METHODS
from tests.conftest import changed, predict, refusal, write_images
from tests.driver import train

# grad-cam's imputer hands tensors to NumPy in a way that will change.
pytestmark = [pytest.mark.draws, pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")]


class TwoLayers(nn.Module):
    """A convolution, an activation that writes into its input, a mean over the places, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, padding=1)
        self.activation = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        return self.head(self.activation(self.convolution(images)).mean((2, 3)))


@pytest.mark.parametrize("name", ["convolution", "activation"])
def test_gradcam_is_grad_cam_by_hand(name):
    """Weights are the mean gradients of the channels; also where the next layer overwrites the map."""
    torch.manual_seed(0)
    model, images, labels = TwoLayers().eval(), torch.randn(5, 3, 9, 7), [0, 1, 2, 3, 1]
    found = compute_maps("gradcam", model, find_layer(model, images[:1], name), images, labels)

    before = model.convolution(images)
    after = before.relu()
    maps = before if name == "convolution" else after
    logits = model.head(after.mean((2, 3)))
    (gradients,) = torch.autograd.grad(logits[range(5), labels].sum(), maps)
    by_hand = (gradients.mean((2, 3), keepdim=True) * maps).sum(1).relu().detach().numpy()
    low, high = by_hand.min((1, 2), keepdims=True), by_hand.max((1, 2), keepdims=True)
    assert (high > 0).sum() >= 3
    assert found == pytest.approx((by_hand - low) / (high - low), abs=1e-4)


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_integrated_gradients_add_up_to_the_difference_of_the_logits(name):
    torch.manual_seed(1)
    model = create_model(name, input_shape=(3, 32, 32), num_classes=5).eval()
    images, labels = torch.randn(4, 3, 32, 32), [0, 1, 2, 3]
    total = integrated_gradients(model, images, labels).sum((1, 2, 3))
    with torch.no_grad():
        difference = (model(images) - model(torch.zeros_like(images)))[range(4), labels]
    assert total.tolist() == pytest.approx(difference.tolist(), abs=0.02 * difference.abs().max().item())


@pytest.fixture(scope="module")
def bright_square():
    """A net for which bright pixels speak for class 1, and images that are bright in one square each."""
    model = TwoLayers().eval()
    with torch.no_grad():
        model.convolution.weight.fill_(1 / 27)
        model.convolution.bias.zero_()
        model.head.weight.copy_(torch.tensor([-8.0, 8.0, 0.0, 0.0])[:, None].expand(4, 6))
        model.head.bias.copy_(torch.tensor([6.0, 0.0, 0.0, 0.0]))
    generator = torch.Generator().manual_seed(0)
    images = 0.1 * torch.randn(6, 3, 32, 32, generator=generator)
    where = np.zeros((6, 32, 32), dtype=bool)
    for number in range(6):
        top, left = 3 * number + 2, 17 - 3 * number
        images[number, :, top : top + 10, left : left + 10] += 2
        where[number, top : top + 10, left : left + 10] = True
    return model, images, where


@pytest.mark.parametrize("method", METHODS)
def test_each_method_finds_what_the_net_looks_at(method, bright_square):
    model, images, where = bright_square
    maps = compute_maps(method, model, find_layer(model, images[:1], None), images, [1] * 6)
    assert maps.shape == (6, 32, 32)
    hot = heat(maps, (32, 32))
    inside = (hot * where).sum((1, 2)) / hot.sum((1, 2))
    assert inside.min() > 0.6  # the square is a tenth of the image
    assert faithfulness.road(model, images, maps, [1] * 6).min() > 0.02


def test_the_figure_tells_a_true_map_from_noise_and_from_its_opposite(bright_square):
    model, images, where = bright_square
    noise = np.random.default_rng(0).random(where.shape)
    true, random, false = (faithfulness.road(model, images, maps, [1] * 6).mean() for maps in (where, noise, ~where))
    assert true > 0.05 and false < -0.05 and abs(random) < true / 4
    assert faithfulness.road(model, images, where, [1] * 6).mean() == true  # noise is the same each time


LAYERS = {
    "cnn": "stages",
    "fcn": "layers.13",
    "timm/test_resnet": "layer4",
    "timm/test_efficientnet": "bn2",
    "timm/test_convnext": "norm_pre",
    "timm/test_vit": "blocks.5.norm1",
    "timm/swin_tiny_patch4_window7_224": "norm",
}
SMALL = {"timm/swin_tiny_patch4_window7_224": {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2)}}


@pytest.mark.parametrize("name", [*models.MODELS, *(name for name in LAYERS if name not in models.MODELS)])
def test_every_model_is_explained_at_its_last_map_or_refused(name):
    """Convolutional nets before pooling, transformers where the image's tokens still reach the class."""
    torch.manual_seed(0)
    side = 112 if "swin" in name else 64
    arguments = {"input_shape": (3, side, side), "num_classes": 4, **SMALL.get(name, {})}
    model = create_model(name, **arguments).eval()
    images = torch.randn(2, 3, side, side)
    if name in ("mlp", "skip_mlp"):
        with pytest.raises(Exception, match="no layer of this model keeps the places"):
            find_layer(model, images[:1], None)
        return
    layer = find_layer(model, images[:1], None)
    assert layer.name == LAYERS.get(name, layer.name)
    found = [compute_maps(method, model, layer, images, [1, 2]) for method in CAMS[:2]]
    assert all(maps.shape == (2, side, side) and np.isfinite(maps).all() for maps in found)
    # Nothing may speak for a class of a net that is not trained, but something speaks for one of two.
    assert max(maps.max() for maps in found) > 0.9


def test_the_test_split_is_explained_in_pictures_figures_and_tensorboard(capsys, best, tmp_path):
    folder = tmp_path / "two words"
    options = ("--explain-count", 2, "--output", folder)
    for methods in ("eigencam", "gradcam,integrated-gradients"):  # the second takes the first one's place
        code, out, err = predict(capsys, "--weights", best, "--explain", methods, *options)
        assert (code, err) == (0, "")
    pictures = {"right.png", "wrong.png", "average.png"}
    assert {path.name for path in folder.iterdir() if "tfevents" not in path.name} == {*pictures, "explain.json"}
    report = json.loads((folder / "explain.json").read_text())
    assert report["layer"] == "stages"
    assert report["accuracy"] == json.loads((best.parent / "test.json").read_text())["accuracy"]
    assert set(report["methods"]) == {"gradcam", "integrated-gradients", "middle"}
    events = EventAccumulator(str(folder))
    events.Reload()
    assert set(events.Tags()["images"]) == {f"maps/{name.removesuffix('.png')}" for name in pictures}
    assert len(events.Tags()["scalars"]) == 3
    for name, figure in report["methods"].items():
        assert figure["samples"] == 20 and f"{name:<20} faithfulness {figure['faithfulness']:6.3f}" in out
        (event,) = events.Scalars(f"maps/faithfulness/{name}")
        assert event.value == pytest.approx(figure["faithfulness"], rel=1e-5)


def test_images_are_explained_for_the_answer_and_for_a_named_class(capsys, best, tmp_path):
    """Colour photos for a net of grey ones, folders with spaces, and one that cannot be read."""
    write_images(tmp_path / "my photos", 11, size=(30, 20))
    (tmp_path / "my photos" / "text.png").write_text("no image")
    widths = []
    for named in ((), ("--explain-class", "3,8")):
        folder = tmp_path / f"out{len(named)}"
        code, _, err = predict(
            capsys, "--weights", best, "--explain", "gradcam", *named, "--output", folder, tmp_path / "my photos"
        )
        assert code == 1 and err.splitlines()[-1] == "1 of 12 images could not be read"
        assert {path.name for path in folder.glob("*.png")} == {"maps-001.png", "maps-002.png"}
        widths.append(Image.open(folder / "maps-002.png").width)
    assert widths[1] > 1.5 * widths[0]
    answers = json.loads((folder / "explain.json").read_text())["images"]
    predict(
        capsys, "--weights", best, "--mixed-precision", "no", "--output", tmp_path / "a.json", tmp_path / "my photos"
    )
    for answer, row in zip(answers, json.loads((tmp_path / "a.json").read_text()), strict=True):
        assert answer["image"] == row["image"] and answer["class"] == row["predictions"][0]["class"]
        assert answer["probability"] == pytest.approx(row["predictions"][0]["probability"], abs=1e-5)


REFUSED = [
    ("--explain gradcamm", "unknown method 'gradcamm': give some of gradcam, gradcam"),
    ("--explain gradcam --explain-class 11", "--explain-class 11: these weights know no such class"),
    ("--explain gradcam --explain-layer stage", "the model has no layer of this name; did you mean stages"),
    ("--explain gradcam --explain-layer head.3", "an output of shape (1, 10), no map of the image"),
    ("--explain occlusion --explain-layer stages", "--explain-layer is of use to gradcam"),
    ("--explain-class 3", "--explain-class: of use with --explain alone"),
    ("--explain gradcam --explain-count 0", "0 is out of range"),
    ("--explain gradcam --tta flip", "--tta says nothing to --explain"),
    ("--explain gradcam --mixed-precision bf16", "--mixed-precision says nothing to --explain"),
]


@pytest.mark.parametrize("arguments, says", REFUSED, ids=[arguments for arguments, _ in REFUSED])
def test_what_cannot_be_explained_is_one_line_and_nothing_is_written(capsys, best, tmp_path, arguments, says):
    folder = tmp_path / "out"
    assert says in refusal(capsys, "--weights", best, *arguments.split(), "--output", folder)
    assert not folder.exists()


def test_a_class_without_a_test_image_is_one_line(capsys, tmp_path, tree, own_cache):
    pets = tree(*(f"{split}/{name}" for split in ("train", "test") for name in ("cat", "dog")))
    write_images(pets / "train" / "rare", 5)
    options = f"--cpu --track none --model cnn --model-arg width=8 --epochs 1 --output-dir {tmp_path} --run-name run"
    assert train(["--dataset", str(pets), *options.split()])[0] == [0]
    rare = ("--weights", tmp_path / "run" / "best.pth", "--explain", "gradcam", "--explain-class", "rare")
    assert "the test split has no image of rare" in refusal(capsys, *rare, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_package_a_file_and_a_net_without_maps_are_one_line(capsys, best, tmp_path, monkeypatch):
    explain = ("--explain", "gradcam,occlusion")
    (tmp_path / "file").touch()
    assert "is a file" in refusal(capsys, "--weights", best, *explain, "--output", tmp_path / "file")
    mlp = create_model("mlp", input_shape=(1, 8, 8), num_classes=10)
    content = changed(best, tmp_path / "mlp.pth", model="mlp", weights=mlp.state_dict())
    assert "give integrated-gradients or occlusion" in refusal(capsys, "--weights", content, *explain)
    options = {**best_weights.load(best)["options"], "task": "transform", "transform": "vflip"}
    images = changed(best, tmp_path / "t.pth", model="separable_map", output_shape=(1, 8, 8), options=options)
    assert "make images, not classes" in refusal(capsys, "--weights", images, *explain)
    monkeypatch.setitem(sys.modules, "captum", None)
    assert "run 'pip install captum'" in refusal(capsys, "--weights", best, *explain)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "mlp.pth", "t.pth"}
