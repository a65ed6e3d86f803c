"""timm's models train, save and resume, or are refused before anything is written; a slow test tries every family."""

import re
import warnings
from pathlib import Path

import pytest
import timm
import torch

from engine.checkpoints import best_weights, store
from tests.conftest import write_images
from tests.driver import Fault, train

OPTIONS = (
    "--cpu --track none --limit-train 8 --batch-size 4 --val-fraction 0.01 --epochs 1 --ema 0.5 "
    "--mixed-precision no --checkpoint-every 1 --run-name run"
).split()
MOST_PARAMETERS = 30_000_000
# Families with weights in two places, position embeddings of their own, batch norm, layer norm, weight standardisation.
SOME = ("coat_lite_tiny", "test_vit", "test_efficientnet", "test_convnext", "test_nfnet")


def members(module: str) -> dict[str, int]:
    """Names of a family's models and their parameters."""
    found = {}
    for name in timm.list_models(module=module):
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[name] = sum(parameter.numel() for parameter in timm.create_model(name, num_classes=10).parameters())
    return found


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of images in colour, which some models need."""
    folder = tmp_path_factory.mktemp("images")
    for seed, name in enumerate("ab"):
        write_images(folder / name, 100, seed=seed)
    return str(folder)


def trains_and_resumes(name: str, size: int, folder: Path, dataset: str = "digits") -> str:
    """Two steps, and the same with a kill after the first: the bits are equal. Returns the line of a refusal, or ""."""
    options = [*OPTIONS, "--dataset", dataset, "--image-size", str(size), "--model", f"timm/{name}", "--output-dir"]
    codes, printed = train([*options, str(folder / "whole")])
    if codes == [2] and "does not work on" in printed:
        assert not (folder / "whole" / "run").exists()
        return printed
    assert codes == [0], printed
    codes, printed = train([*options, str(folder / "killed")], fault=Fault(kill_after=1))
    assert codes == [-9], printed
    codes, printed = train([*options, str(folder / "killed"), "--resume", "auto"])
    assert codes == [0], printed
    assert "at step 1 of 2" in printed
    ended = [store.newest_intact(folder / run / "run" / "checkpoints") for run in ("whole", "killed")]
    for file, tensors in ended[0][1].items():
        assert all(torch.equal(value, ended[1][1][file][key]) for key, value in tensors.items()), file
    best_weights.restore(best_weights.load(folder / "killed" / "run" / "best.pth"), "best.pth")
    return ""


@pytest.mark.parametrize("name", [*SOME, pytest.param("efficientvit_m0", marks=pytest.mark.slow)])
def test_a_model_trains_saves_and_resumes_with_the_same_bits(name: str, tmp_path: Path) -> None:
    assert trains_and_resumes(name, 32, tmp_path) == ""


@pytest.mark.slow
@pytest.mark.parametrize("module", timm.list_modules())
def test_the_smallest_of_a_family_trains_at_some_size(module: str, colours: str, tmp_path: Path) -> None:
    sizes = members(module)
    name = min(sizes, key=sizes.get)
    if sizes[name] > MOST_PARAMETERS:
        pytest.skip(f"NOT TESTED: the smallest, {name}, has {sizes[name] / 1e6:.0f} M parameters")
    own = timm.get_pretrained_cfg(name, allow_unregistered=False).input_size[1]
    refusals = []
    for size in dict.fromkeys((32, 64, 224, own)):
        refusals.append(trains_and_resumes(name, size, tmp_path / str(size), colours))
        if not refusals[-1]:
            return
    pytest.fail("\n".join(refusals))


@pytest.mark.parametrize(
    ("model", "argument", "says"),
    [
        ("timm/test_resnet", "features_only=True", r"makes a list of an image, where shape \(10,\) is learnt from"),
        ("timm/test_vit", "global_pool=", r"makes shape \(\d+, 10\) of an image, where shape \(10,\) is learnt from"),
    ],
)
def test_a_model_whose_output_is_no_score_a_class_is_refused_with_nothing_written(
    model: str, argument: str, says: str, tmp_path: Path
) -> None:
    options = [*OPTIONS, "--dataset", "digits", "--image-size", "32", "--model", model, "--model-arg", argument]
    options += ["--output-dir", str(tmp_path)]
    codes, printed = train(options)
    assert codes == [2], printed
    *_, last = printed.splitlines()
    assert re.match(f"error: --model {model} {says}", last), printed
    assert "Traceback" not in printed
    assert not (tmp_path / "run").exists()
