"""Pretrained weights arrive whole, frozen layers stay bit for bit, layers learn at timm's rates; what does not fit is
refused in one line."""

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.optim import param_groups_layer_decay

import models
from common.errors import UserError
from engine.checkpoints import best_weights, pretrained
from engine.optim.factory import build_optimizer
from models import param_groups
from models.factory import create_model
from options.groups import TrainOptions
from tests.conftest import predict
from tests.driver import Fault, train

SHORT = "--cpu --track none --limit-train 320 --batch-size 32 --epochs 2 --mixed-precision no --run-name run".split()


def fine_tune(place: Path, *options: str, processes: int = 1, fault: Fault | None = None) -> str:
    codes, printed = train([*SHORT, "--output-dir", str(place), *map(str, options)], processes, fault)
    assert codes == [-9 if fault and fault.kill_after else 0] * processes, printed
    return printed


def checkpoint(place: Path, step: int = 20) -> dict[str, torch.Tensor]:
    return load_file(place / "run" / "checkpoints" / f"step-{step}" / "model.safetensors")


def body(model: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.items() if not name.startswith("head")}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def head_only(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A digits net whose head alone was trained on, and what was printed."""
    place = tmp_path_factory.mktemp("head")
    return place, fine_tune(
        place, "--pretrained", run_folder / "best.pth", "--freeze", "head", fault=Fault(report=True)
    )


def test_frozen_layers_and_their_statistics_stay_bit_for_bit(run_folder: Path, head_only: tuple[Path, str]) -> None:
    before, after = best_weights.load(run_folder / "best.pth")["weights"], checkpoint(head_only[0])
    assert equal(body(before), body(after))
    assert not equal(before, after)
    assert "; all of them" in head_only[1]


def test_images_are_prepared_as_for_the_pretrained_weights(run_folder: Path, head_only: tuple[Path, str]) -> None:
    first, second = (best_weights.load(place / "best.pth") for place in (run_folder, head_only[0] / "run"))
    assert (first["mean"], first["std"]) == (second["mean"], second["std"])


def test_layers_unfreeze_at_their_epoch_and_a_killed_run_goes_on_there(run_folder: Path, tmp_path: Path) -> None:
    options = ["--pretrained", run_folder / "best.pth", "--freeze", "head=0.5,none=0.5"]
    fine_tune(tmp_path / "whole", *options)
    before = best_weights.load(run_folder / "best.pth")["weights"]
    assert equal(body(before), body(checkpoint(tmp_path / "whole", 10)))
    after = checkpoint(tmp_path / "whole")
    assert not any(torch.equal(before[n], after[n]) for n in body(before) if before[n].ndim > 1)
    for step in (7, 14):  # in an epoch that freezes, and in one that does not
        place = tmp_path / f"killed-{step}"
        fine_tune(place, *options, "--checkpoint-every", "4", fault=Fault(kill_after=step))
        fine_tune(place, *options, "--checkpoint-every", "4", "--resume", "auto")
        assert equal(after, checkpoint(place))


def test_two_processes_unfreeze_as_one_does(tmp_path: Path) -> None:
    options = ["--model", "mlp", "--optimizer", "sgd", "--freeze", "1=0.5,none=0.5"]
    fine_tune(tmp_path / "one", *options)
    fine_tune(tmp_path / "two", *options, processes=2)
    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-6


def test_a_net_moves_to_other_classes_and_sizes_and_predicts(
    run_folder: Path, tmp_path: Path, tree, capsys: pytest.CaptureFixture
) -> None:
    pets = tree("cat", "dog", count=30, size=(12, 12), mode="L")
    options = ["--dataset", pets, "--pretrained", run_folder / "best.pth", "--freeze", "1", "--limit-train", "40"]
    printed = fine_tune(tmp_path, *options, "--batch-size", "20", fault=Fault(report=True))
    assert "not loaded, so new: head" in printed
    content = best_weights.load(tmp_path / "run" / "best.pth")
    assert content["options"]["input_size"] == 8
    reported = json.loads((tmp_path / "run" / "test.json").read_text())
    code, _, err = predict(capsys, "--weights", tmp_path / "run" / "best.pth")
    assert code == 0, err
    again = json.loads((tmp_path / "run" / "best-test" / "test.json").read_text())
    assert again["loss"] == reported["loss"]


def test_images_that_are_not_square_stay_so(tmp_path: Path, tree: Callable[..., Path], own_cache: Path) -> None:
    pets = ["--dataset", tree("cat", "dog", count=30, size=(8, 12)), "--model", "mlp", "--limit-train", "32"]
    fine_tune(tmp_path / "first", *pets)
    first = tmp_path / "first" / "run" / "best.pth"
    assert "all of them" in fine_tune(tmp_path / "second", *pets, "--pretrained", first)


def args(**changes: object) -> TrainOptions:
    return TrainOptions(**{"model": "timm/mobilenetv2_100", **changes})


@pytest.mark.parametrize("channels", [3, 1])
def test_weights_of_timm_arrive_as_timm_loads_them(real_data: str, channels: int) -> None:
    file = Path(real_data).parent / "weights" / "mobilenetv2_100.safetensors"
    if not file.is_file():
        pytest.skip(f"NOT TESTED on real weights: no file {file}")
    theirs = timm.create_model(
        "mobilenetv2_100", pretrained=True, in_chans=channels, pretrained_cfg_overlay={"file": str(file)}
    )
    ours = create_model("timm/mobilenetv2_100", input_shape=(channels, 64, 64), num_classes=1000)
    pretrained.load(ours, args(pretrained=str(file)), [])
    assert equal(theirs.state_dict(), ours.state_dict())
    chosen = args(pretrained=str(file))
    chosen = pretrained.completed(chosen)
    config = timm.data.resolve_model_data_config(theirs)
    assert tuple(chosen.mean) == config["mean"] and tuple(chosen.std) == config["std"]
    assert (chosen.input_size, chosen.interpolation) == (224, config["interpolation"])


def test_position_embeddings_are_resampled_as_timm_does(tmp_path: Path) -> None:
    big = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=5)
    save_file(big.state_dict(), tmp_path / "vit.safetensors")
    overlay = {"file": str(tmp_path / "vit.safetensors"), "num_classes": 5, "custom_load": False}
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=48, num_classes=5, pretrained=True, pretrained_cfg_overlay=overlay
    )
    name = "timm/vit_tiny_patch16_224"
    ours = create_model(name, input_shape=(3, 48, 48), num_classes=5)
    pretrained.load(ours, args(model=name, pretrained=str(tmp_path / "vit.safetensors")), [])
    assert equal(theirs.state_dict(), ours.state_dict())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mobilenetv2_100", "convnext_atto"])
def test_layers_learn_at_the_rates_of_timm(name: str) -> None:
    model = timm.create_model(name, num_classes=3)
    optimizer = build_optimizer(model, "sgd", lr=1.0, momentum=0.9, weight_decay=0.1, layer_decay=0.7)
    theirs = {
        id(parameter): group["lr_scale"]
        for group in param_groups_layer_decay(model, layer_decay=0.7)
        for parameter in group["params"]
    }
    ours = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert ours == pytest.approx(theirs)


@pytest.mark.parametrize("name", models.MODELS)
def test_the_groups_of_our_nets_hold_every_parameter_once_and_end_with_the_head(name: str) -> None:
    model = create_model(name, input_shape=(3, 32, 32), num_classes=4)
    groups = param_groups.groups_in_order(model)
    assert sorted(name for group in groups for name in group) == sorted(name for name, _ in model.named_parameters())
    assert param_groups.head_names(model) <= set(groups[-1])
    assert len(groups) > 2


def test_a_head_begins_with_imagenets_rows_of_the_same_names(tmp_path: Path) -> None:
    theirs = timm.create_model("resnet10t", num_classes=1000)
    save_file(theirs.state_dict(), tmp_path / "resnet.safetensors")
    name = "timm/resnet10t"
    classes = ["Parachute", "my own", "golf_ball", "n01440764", "crane"]  # ImageNet has two kinds of cranes
    ours = create_model(name, input_shape=(3, 32, 32), num_classes=len(classes))
    chosen = args(model=name, pretrained=str(tmp_path / "resnet.safetensors"), match_classes=True)
    pretrained.load(ours, chosen, classes)
    for parameter, known in ((ours.fc.weight, theirs.fc.weight), (ours.fc.bias, theirs.fc.bias)):
        assert torch.equal(parameter[[0, 2, 3]], known[[701, 574, 0]])
        assert not parameter[[1, 4]].any()


def test_a_head_of_as_many_other_classes_stays_new(best: Path, capsys: pytest.CaptureFixture) -> None:
    model = create_model("cnn", input_shape=(1, 8, 8), num_classes=10)
    pretrained.load(model, args(model="cnn", pretrained=str(best)), list("abcdefghij"))
    assert not any(model.get_parameter(name).any() for name in param_groups.head_names(model))
    assert "know every class" not in capsys.readouterr().out
    pretrained.load(model, args(model="cnn", pretrained=str(best)), best_weights.load(best)["class_names"][::-1])
    assert not any(model.get_parameter(name).any() for name in param_groups.head_names(model))
    assert "they know every class by name: --match-classes would keep that" in capsys.readouterr().out


def test_a_head_begins_with_the_rows_of_our_own_classes_in_whatever_order(best: Path) -> None:
    content = best_weights.load(best)
    known = content["class_names"]
    first = best_weights.restore(content, "best.pth")[0].eval()
    second = create_model(content["model"], input_shape=(1, 8, 8), num_classes=len(known))
    order = [3, 1, 2, 0, *range(4, len(known))]
    chosen = args(model="cnn", pretrained=str(best), match_classes=True)
    pretrained.load(second, chosen, [known[place] for place in order])
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(second.eval()(images), first(images)[:, order], rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match=r"names none of the classes \(cat, dog, a, b, c, \.\.\.\)"):
        pretrained.load(second, chosen, ["cat", "dog", *"abcdefgh"])


def refusal(classes: Sequence[str] = tuple("0123456789"), **options: object) -> str:
    chosen = args(**options)
    with pytest.raises(UserError) as refused:
        chosen = pretrained.completed(chosen)
        model = create_model(chosen.model, input_shape=(3, 32, 32), num_classes=len(classes))
        pretrained.load(model, chosen, classes)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_weights_that_do_not_fit_are_refused_in_words(
    best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "does not fit --model mlp" in refusal(model="mlp", pretrained=str(best))
    assert "(it holds cnn with no model-arg)" in refusal(model="mlp", pretrained=str(best))
    assert "No such file" in refusal(pretrained="nowhere.safetensors")
    bigger = timm.create_model("resnet34", num_classes=10).state_dict()  # every name of resnet18 is in it
    save_file(bigger, tmp_path / "resnet34.safetensors")
    assert "is unknown" in refusal(model="timm/resnet18", pretrained=str(tmp_path / "resnet34.safetensors"))
    (tmp_path / "text.safetensors").write_text("weights")
    assert "not a file of weights" in refusal(pretrained=str(tmp_path / "text.safetensors"))
    (tmp_path / "code.pth").write_bytes(pickle.dumps(timm.create_model, protocol=2))
    assert "could run code" in refusal(pretrained=str(tmp_path / "code.pth"))
    unnamed = {"model": "timm/resnet34", "pretrained": str(tmp_path / "resnet34.safetensors")}
    assert "names none of the classes (0, 1, 2, 3, 4, ...)" in refusal(**unnamed, match_classes=True)
    other_features = {f"fc.{name}": torch.zeros(1000, *shape) for name, shape in (("weight", (99,)), ("bias", ()))}
    save_file({**bigger, **other_features}, tmp_path / "other.safetensors")
    unfit = {"model": "timm/resnet34", "pretrained": str(tmp_path / "other.safetensors")}
    assert "has no head that fits" in refusal(["tench", "church"], **unfit, match_classes=True)
    assert "cnn has no weights on the Hub" in refusal(model="cnn", pretrained="hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "from the Hub" in refusal(model="timm/resnet10t", pretrained="hub")


def test_as_many_layers_as_there_are_cannot_be_frozen() -> None:
    model = create_model("cnn", input_shape=(3, 32, 32), num_classes=10)
    param_groups.check_frozen(model, ["none", "head", str(len(param_groups.groups_in_order(model)) - 1)])
    with pytest.raises(UserError, match="--freeze 99: this net has"):
        param_groups.check_frozen(model, ["99"])


def test_where_the_model_sees_another_size_than_the_images_have_a_line_says_so(tmp_path: Path) -> None:
    said = {size: fine_tune(tmp_path / size, "--model", "mlp", "--input-size", size) for size in ("8", "12")}
    line = "images of 8x8 are resized to 12x12 for the model: --input-size sets that size\n"
    assert line in said["12"] and "are resized" not in said["8"]
