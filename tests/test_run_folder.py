"""What a run leaves: every file that is promised, whole, strict, and enough to do the run again."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train as script
from common.version import VERSION
from models.factory import create_model
from models.summary import summarize
from tests.driver import Fault, train

pytestmark = pytest.mark.draws

FILES = {
    "args.yaml",
    "environment.json",
    "train.json",
    "test.json",
    "test.csv",
    "report.html",
    "best.pth",
    "checkpoints",
    "log.txt",
}
PICTURES = {"curves.png", "loss.png", "accuracy.png", "confusion_matrix.png", "reliability.png", "examples.png"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `make demo`: no option but where to write."""
    folder = tmp_path_factory.mktemp("runs with spaces")
    script.main(["--output-dir", str(folder), "--run-name", "demo", "--cpu"])
    return folder / "demo"


def strict(path: Path) -> dict:
    def refuse(word: str) -> None:
        raise AssertionError(f"{path} holds {word}, which is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_the_demo_reaches_98_percent(demo: Path) -> None:
    # Rounded: seeds reach 98.33 to 98.89 %, and a CPU that rounds otherwise, or computes in bf16, is as another seed.
    assert round(strict(demo / "test.json")["accuracy"], 2) >= 0.98


def test_the_demo_is_a_minute_of_work_for_two_cores(demo: Path) -> None:
    """Counted: a core multiplies and adds 10,000 million times a second and more, and a step does three passes."""
    epochs = strict(demo / "train.json")["epochs"]
    images = epochs[-1]["step"] * yaml.safe_load((demo / "args.yaml").read_text())["batch_size"]
    macs = summarize(create_model("cnn", input_shape=(1, 8, 8), num_classes=10), (1, 8, 8))["macs"]
    assert 3 * macs * images < 60 * 2 * 10_000_000_000


def test_every_file_is_there_and_nothing_else(demo: Path) -> None:
    events = {path.name for path in demo.glob("events.out.tfevents.*")}
    assert len(events) == 1
    assert {path.name for path in demo.iterdir()} == FILES | PICTURES | events
    for name in PICTURES:
        with Image.open(demo / name) as picture:
            picture.load()
            assert min(picture.size) > 300


def test_the_figures_of_an_epoch_are_complete(demo: Path) -> None:
    epochs = strict(demo / "train.json")["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, 21))
    wanted = {"epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds"}
    wanted |= {"val_macro_f1", "val_balanced_accuracy", "images_per_second"}
    assert all(set(epoch) == wanted for epoch in epochs)
    environment = strict(demo / "environment.json")
    assert environment["sameloop"] == VERSION
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert environment["parameters"] == sum(
        value.numel()
        for name, value in torch.load(demo / "best.pth", weights_only=True)["weights"].items()
        if "running" not in name and "num_batches" not in name
    )


def test_best_pth_holds_the_weights_of_the_best_validation_epoch(demo: Path) -> None:
    history = strict(demo / "train.json")
    best = max(history["epochs"], key=lambda epoch: (epoch["val_accuracy"], -epoch["val_loss"]))
    assert history["best_epoch"] == best["epoch"]
    assert torch.load(demo / "best.pth", weights_only=True)["step"] == best["step"]


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_has_the_same_curves_and_the_pictures(demo: Path) -> None:
    epochs = strict(demo / "train.json")["epochs"]
    for name in ("loss/train", "accuracy/train", "loss/val", "accuracy/val"):
        expected = [(epoch["step"], epoch["_".join(reversed(name.split("/")))]) for epoch in epochs]
        for (step, value), (wanted_step, wanted) in zip(scalars(demo, name), expected, strict=True):
            assert step == wanted_step
            assert value == pytest.approx(wanted, rel=1e-5)
    events = EventAccumulator(str(demo))
    events.Reload()
    assert set(events.Tags()["images"]) == {"pictures/confusion_matrix", "pictures/examples"}
    # TensorBoard shows cards in the order of their names: curves come first.
    names = sorted([*events.Tags()["scalars"], *events.Tags()["images"]])
    assert names[:6] == ["accuracy/train", "accuracy/val", "loss/running", "loss/train", "loss/val", "lr"]


def test_tensorboard_goes_on_without_a_gap_or_a_double_after_a_crash(tmp_path: Path) -> None:
    argv = "--cpu --limit-train 128 --batch-size 32 --epochs 3 --model mlp --log-every 1 --run-name run".split()
    argv += ["--checkpoint-every", "4", "--output-dir", str(tmp_path)]
    train(argv, 1, Fault(kill_after=11))
    assert train([*argv, "--resume", "auto"])[0] == [0]
    assert [step for step, _ in scalars(tmp_path / "run", "lr")] == list(range(1, 13))
    assert [step for step, _ in scalars(tmp_path / "run", "loss/val")] == [4, 8, 12]
    assert [epoch["step"] for epoch in strict(tmp_path / "run" / "train.json")["epochs"]] == [4, 8, 12]


def test_args_yaml_is_a_recipe_that_does_the_run_again(tmp_path: Path) -> None:
    first = (
        "--cpu --track none --epochs 2 --limit-train 256 --model mlp --model-arg hidden=[16,8] --augment flip".split()
    )
    where = ["--output-dir", str(tmp_path), "--run-name"]
    assert train([*first, *where, "first"])[0] == [0]
    options = yaml.safe_load((tmp_path / "first" / "args.yaml").read_text())
    assert options["model_arg"] == {"hidden": [16, 8]}
    assert train(["--recipe", str(tmp_path / "first" / "args.yaml"), *where, "again"])[0] == [0]
    file = f"checkpoints/step-{strict(tmp_path / 'first' / 'train.json')['epochs'][-1]['step']}/model.safetensors"
    assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_patience_ends_a_run_that_gets_no_better_keeps_its_best_and_a_resume_trains_no_further(tmp_path: Path) -> None:
    # A learning rate that no weight can feel: every epoch has the same figures, so that the first stays the best.
    argv = "--cpu --track none --limit-train 128 --batch-size 32 --epochs 9 --model mlp --lr 1e-30 --run-name run"
    argv = [*argv.split(), "--schedule", "constant", "--output-dir", str(tmp_path), "--patience"]

    def check(patience: int, *more: str, steps_trained: int) -> None:
        ledger = tmp_path / f"ledger{patience}{''.join(more)}"
        codes, printed = train([*argv, str(patience), *more], 1, Fault(ledger=ledger, report=True))
        assert codes == [0], printed
        rates = Path(f"{ledger}.lr.0")
        assert (len(rates.read_text().splitlines()) if rates.exists() else 0) == steps_trained
        history = strict(tmp_path / "run" / "train.json")
        assert [epoch["epoch"] for epoch in history["epochs"]] == list(range(1, patience + 2))
        assert history["best_epoch"] == 1
        assert torch.load(tmp_path / "run" / "best.pth", weights_only=True)["step"] == 4
        assert strict(tmp_path / "run" / "test.json")["samples"] == 359

    check(2, steps_trained=12)
    check(2, "--resume", "auto", steps_trained=0)
    check(3, "--resume", "auto", steps_trained=4)  # who has more patience may go on
