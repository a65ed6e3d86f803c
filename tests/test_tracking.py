"""What trackers are given: curves, pictures, the model, and at the end what it takes to compare runs."""

import importlib.util
import json
import os
import re
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from accelerate.tracking import TensorBoardTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import nn

from engine.output import trackers
from tests.conftest import REPOSITORY
from tests.driver import HANGS, Fault, train

OPTIONS = (
    "--cpu --dataset digits --limit-train 128 --batch-size 32 --model mlp --model-arg hidden=[16,8] --lr 0.004 "
    "--mixed-precision no --run-name run"
).split()
FINAL = {"test/accuracy", "test/loss", "test/macro_f1"} | {
    f"total/{name}" for name in ("best_val_accuracy", "trained_seconds", "images_per_second", "parameters")
}
PICTURES = {"pictures/confusion_matrix", "pictures/examples"}


def options(folder: Path, *more: str, epochs: int = 2) -> list[str]:
    return [*OPTIONS, "--output-dir", str(folder), "--epochs", str(epochs), *more]


def whole(folder: Path, *more: str, epochs: int = 2) -> str:
    """Do a run to its test report; returns what it printed."""
    codes, printed = train(options(folder, *more, epochs=epochs), fault=Fault(report=True))
    assert codes == [0], printed
    return printed


def events_of(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def hyper_parameters(events: EventAccumulator) -> dict[str, object]:
    """The options of a run, as the page HPARAMS finds them; the run must have ended well."""
    content = events.PluginTagToContent("hparams")
    assert set(content) == {"_hparams_/session_start_info", "_hparams_/session_end_info"}
    assert HParamsPluginData.FromString(content["_hparams_/session_end_info"]).session_end_info.status == 1
    start = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}


def check_figures(events: EventAccumulator, folder: Path) -> None:
    """Each figure of the end is there once, and is the one of test.json or train.json."""
    test = json.loads((folder / "test.json").read_text())
    history = json.loads((folder / "train.json").read_text())
    epochs = history["epochs"]
    wanted = {
        "test/accuracy": test["accuracy"],
        "test/loss": test["loss"],
        "test/macro_f1": test["f1"]["macro"],
        "total/best_val_accuracy": epochs[history["best_epoch"] - 1]["val_accuracy"],
        "total/trained_seconds": sum(epoch["seconds"] for epoch in epochs),
        "total/parameters": json.loads((folder / "environment.json").read_text())["parameters"],
    }
    for name, value in wanted.items():
        (event,) = events.Scalars(name)
        assert event.step == epochs[-1]["step"]
        assert event.value == pytest.approx(value, rel=1e-5)
    assert set(events.Tags()["scalars"]) >= FINAL
    rates = [epoch["images_per_second"] for epoch in epochs]
    assert min(rates) * 0.999 <= events.Scalars("total/images_per_second")[0].value <= max(rates) * 1.001


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run's folder, and what it printed."""
    folder = tmp_path_factory.mktemp("runs")
    return folder / "run", whole(folder)


def test_a_run_leaves_its_options_and_final_figures_to_compare_it_by(run: tuple[Path, str]) -> None:
    folder, _ = run
    events = events_of(folder)
    found = hyper_parameters(events)
    expected = {"lr": 0.004, "model": "mlp", "epochs": 2, "model_arg.hidden": "[16, 8]", "mixed_precision": "no"}
    assert {name: found[name] for name in expected} == expected
    assert not {"output_dir", "run_name", "track", "resume", "model_arg"} & set(found)
    check_figures(events, folder)
    assert not [path for path in folder.iterdir() if path.is_dir() and path.name != "checkpoints"]


def test_the_model_is_drawn_with_its_layers_and_the_terminal_stays_clean(run: tuple[Path, str]) -> None:
    folder, printed = run
    graph = GraphDef.FromString(events_of(folder)._graph)
    names = " ".join(node.name for node in graph.node)
    assert "MLP" in names
    assert "Linear" in names
    assert not [word for word in ("Warning", "deprecated", "no graph") if word in printed]


def test_a_run_that_was_stopped_and_resumed_has_one_set(tmp_path: Path) -> None:
    codes, printed = train(options(tmp_path, "--checkpoint-every", "3"), fault=Fault(kill_after=5))
    assert codes == [-9], printed
    whole(tmp_path, "--checkpoint-every", "3", "--resume", "auto")
    events = events_of(tmp_path / "run")
    assert hyper_parameters(events)["epochs"] == 2
    check_figures(events, tmp_path / "run")


def test_a_run_that_is_trained_on_after_its_end_has_the_new_set_alone(tmp_path: Path) -> None:
    whole(tmp_path)
    whole(tmp_path, "--resume", "auto")  # nothing is left to do
    check_figures(events_of(tmp_path / "run"), tmp_path / "run")
    whole(tmp_path, "--resume", "auto", epochs=3)
    events = events_of(tmp_path / "run")
    assert hyper_parameters(events)["epochs"] == 3
    check_figures(events, tmp_path / "run")
    assert [event.step for event in events.Scalars("loss/val")] == [4, 8, 12]
    assert {name: len(events.Images(name)) for name in PICTURES} == dict.fromkeys(PICTURES, 1)


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError("not while tracing\nand more")
        return self.layer(images.flatten(1))


def test_a_model_that_cannot_be_traced_is_one_line_and_left_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker = TensorBoardTracker("run", str(tmp_path))
    tracker.start()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        trackers.log_graph([tracker], Untraceable(), (1, 2, 2))
    out, err = capfd.readouterr()
    assert (out, err.count("\n"), warned) == ("", 1, [])
    assert "cannot be traced: not while tracing" in err
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    trackers.log_graph([tracker], model, (1, 2, 2))
    tracker.finish()
    assert events_of(tmp_path / "run")._graph is not None
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_track_none_writes_nothing(tmp_path: Path) -> None:
    whole(tmp_path, "--track", "none")
    assert not list((tmp_path / "run").glob("events*"))


def records(path: Path) -> list:
    """The records of a .wandb file: LevelDB's log format, blocks of 32 KiB, after 7 bytes of its own."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, part, found = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # what is too short for a header is left empty
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or last part
            found.append(Record.FromString(part))
            part = b""
    return found


def values(items: list) -> dict[str, object]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="NOT TESTED with Weights & Biases: pip install wandb"
)
def test_wandb_without_a_network_holds_curves_options_figures_and_pictures_in_the_runs_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "XDG_"))}
    env |= {"WANDB_MODE": "offline", "HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "train.py", *options(tmp_path, "--track", "tensorboard,wandb")]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run"
    assert not list(home.rglob("*wandb*"))
    (offline,) = (folder / "wandb").glob("offline-run-*")
    (file,) = offline.glob("*.wandb")
    config: dict[str, object] = {}
    history: dict[str, object] = {}
    summary: dict[str, object] = {}
    for record in records(file):
        config |= values(record.run.config.update) | values(record.config.update)
        history |= values(record.history.item)
        summary |= values(record.summary.update)
    last = json.loads((folder / "train.json").read_text())["epochs"][-1]
    for name in ("loss/train", "accuracy/train", "loss/val", "accuracy/val"):
        assert history[name] == last["_".join(reversed(name.split("/")))]
    assert history["speed/images_per_second"] == last["images_per_second"]
    assert (config["lr"], config["model_arg"], config["epochs"]) == (0.004, {"hidden": [16, 8]}, 2)
    assert set(config) >= {"dataset", "optimizer", "seed", "augment", "batch_size", "schedule"}
    test = json.loads((folder / "test.json").read_text())
    assert summary["test/accuracy"] == test["accuracy"]
    assert summary["test/macro_f1"] == test["f1"]["macro"]
    pictures = [path.relative_to(offline).as_posix() for path in offline.rglob("*.png")]
    assert {re.search(r"pictures/[a-z_]+?(?=_[0-9])", name)[0] for name in pictures} == PICTURES
