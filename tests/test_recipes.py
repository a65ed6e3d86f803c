"""Every recipe is one that train.py takes, says what was measured, and gives way to what is typed."""

import json
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from options.groups import TrainOptions
from options.parser import RECIPES
from options.train import parse_train
from tests.driver import train

AT_HAND = {"ILSVRC/imagenet-1k": "imagenette"}  # in the place of what is not
# Tens of millions of parameters, or photos' sizes, and but for figures, or the model of timm, the same as one that is
# tried always.
OF_A_KIND = "cifar10_97 cifar10_vit cifar10_wide cifar100_75 cifar100_finetune cifar100_vit imagenet_resnet50".split()
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("recipe", NAMES)
def test_a_recipe_parses_and_says_what_was_measured(recipe: str) -> None:
    options = parse_train(["--recipe", recipe])
    assert options.epochs > 1
    assert (options.batch_size or 64) % options.accumulate == 0
    assert parse_train(["--recipe", recipe, "--epochs", "1"]).epochs == 1
    head = (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8")
    assert all(fact in head for fact in ("# Measured: ", " % on the test set", "n = ", "torch "))


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=pytest.mark.slow) if name in OF_A_KIND else name for name in NAMES]
)
def test_a_recipe_takes_two_steps(recipe: str, tmp_path: Path, some_of_the_data: Path, own_cache: Path) -> None:
    options = parse_train(["--recipe", recipe])
    photos = options.dataset in AT_HAND
    short = "--epochs 1 --batch-size 4 --limit-train 8 --limit-test 4 --track none".split()
    short += ["--fold", "0"] if options.folds else ["--val-fraction", "0"]
    short += first_weights(options, tmp_path) + (["--dataset", AT_HAND[options.dataset]] if photos else [])
    output = ["--data-dir", str(some_of_the_data), "--output-dir", str(tmp_path), "--run-name", "run"]
    codes, printed = train(["--recipe", recipe, *short, *output])
    assert codes == [0], printed
    assert json.loads((tmp_path / "run" / "train.json").read_text())["epochs"][0]["step"] == 2


def first_weights(options: TrainOptions, folder: Path) -> list[str]:
    """For a recipe that starts from weights of the Hub a file of random ones, as a test has no network."""
    if options.pretrained is None:
        return []
    num_classes = 1000 if options.match_classes else 7  # ImageNet's, whose names are known, or any other
    model = timm.create_model(options.model.removeprefix("timm/"), num_classes=num_classes, **options.model_arg)
    save_file(model.state_dict(), folder / "random.safetensors")
    return ["--pretrained", str(folder / "random.safetensors")]


def test_there_are_recipes() -> None:
    assert NAMES
