"""python -m benches.peers reads logs, lays out images, takes turns, and says in a line why a peer is left out."""

import json
import pickle
import re
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
from PIL import Image

from benches.peers import __main__ as command
from benches.peers import report
from benches.peers.catalog import PEERS
from benches.peers.jobs import JOBS
from benches.peers.layout import lay_out
from benches.peers.peer import Peer
from benches.peers.process import Epoch, Outcome, Reading, train
from benches.peers.rounds import Entry
from tests.conftest import REPOSITORY, write_images

# As each of them says it: (line, accuracy), or None where it ends no epoch.
LINES = {
    "sameloop": [
        ("    2/3      2.0911   25.33 %    2.0927   19.80 %     17 s        54  best", 0.198),
        ("test accuracy 21.09 % on 256 images, loss 2.1091, macro F1 0.1908", 0.2109),
        ("weights  of epoch 3; trained for 48 s", None),
    ],
    "timm": [
        ("Test: [   0/1]  Time: 0.5 (0.5)  Loss:   2.1 ( 2.1)  Acc@1:  17.188 ( 17.188)  Acc@5:  70.3 ( 70.3)", None),
        (
            "Test: [   1/1]  Time: 0.4 (0.5)  Loss:   2.1 ( 2.1)  Acc@1:  18.750 ( 17.969)  Acc@5:  71.1 ( 70.7)",
            0.17969,
        ),
        ("Train: 0 [   0/8 ( 12%)]  Loss: 2.32 (2.32)  Time: 1.6s,   76.43/s  LR: 5.000e-02", None),
    ],
    "accelerate": [("epoch 0: 21.88", 0.2188), ("Resumed from checkpoint: epoch_0", None)],
    "transformers": [
        ("{'eval_loss': '2.1', 'eval_accuracy': '0.2125', 'eval_runtime': '1.2', 'epoch': '1'}", 0.2125),
        ("{'loss': 2.2, 'grad_norm': 3.1, 'epoch': 1.0}", None),
    ],
    "torchvision": [
        ("Test:   Acc@1 13.125 Acc@5 55.000", 0.13125),
        ("Test:   [0/2]  eta: 0:00:01  loss: 2.3 (2.3)  acc1: 10.9 (10.9)  acc5: 53.1 (53.1)", None),
    ],
    "ultralytics": [
        ("                   all      0.131      0.562", 0.131),
        ("               classes   top1_acc   top5_acc: 100% 1/1 2.1it/s", None),
    ],
    "pytorch-cifar": [
        (" [====>.]  Step: 98ms | Tot: 196ms | Loss: 2.290 | Acc: 11.875% (19/160)\b\b 2/2 ", 0.11875),
        (" [====>.]  Step: 98ms | Tot: 196ms | Loss: 2.290 | Acc: 12.000% (12/100)\b\b 1/2 ", None),
        (" [====>.]  Step: 98ms | Tot: 196ms | Loss: 2.290 | Acc: 11.875% (19/160)\b\b 2/8 ", None),  # of train
    ],
}
FAKE = """
import pathlib, sys, time
name, epochs = sys.argv[1], int(sys.argv[2])
with open(pathlib.Path(__file__).parent.parent.parent / "order", "a") as file:
    file.write(name + "\\n")
for epoch in range(200):
    time.sleep(0.02)
    print(f"epoch {epoch}: {10 * epoch + 5} MARK", end="\\r" if epoch % 2 else "\\n")
"""


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """A few images of two classes as peers read them."""
    source = tmp_path_factory.mktemp("source")
    for seed, folder in enumerate(("train/old cat", "train/dog", "test/old cat", "test/dog")):
        (source / folder).mkdir(parents=True)
        write_images(source / folder, 20 if seed < 2 else 5, (32, 32), seed=seed)
    job = replace(JOBS["cifar"], dataset=str(source), train=40, val=10)
    return lay_out(job, None, tmp_path_factory.mktemp("images"))


@pytest.fixture
def fakes(monkeypatch, tmp_path, layout):
    """Two peers that are real processes, of a script with one line to edit, and only tell epochs."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    fake = Peer(
        name="one",
        module="torch",
        script="fake.py of nobody",
        reading=Reading(r"epoch \d+: (?P<accuracy>\d+) edited", percent=True),
        arguments=lambda setting: [setting.script, setting.folder.name.split("-")[0], str(setting.epochs)],
        edits=lambda setting: {"MARK": "edited"},
        network=lambda job: "torch.nn.Conv2d(3, 1, 1)",
    )
    peers = {"one": fake, "two": replace(fake, name="two"), "gpu": replace(fake, name="gpu", unfit="it needs CUDA")}
    monkeypatch.setattr("benches.peers.catalog.PEERS", peers)
    monkeypatch.setattr("benches.peers.layout.lay_out", lambda *_: layout)
    return [f"one={script}", f"two={script}"]


@pytest.mark.parametrize("name", LINES)
def test_the_accuracy_of_an_epoch_is_read_from_the_log_of_each_peer(name):
    pattern = PEERS[name].reading.pattern.replace("{val}", "160")
    reading = replace(PEERS[name].reading, pattern=pattern)
    for line, accuracy in LINES[name]:
        assert reading.accuracy(line) == (None if accuracy is None else pytest.approx(accuracy)), line


def test_images_per_second_are_of_all_epochs_but_the_first_and_an_accuracy_counts_from_the_start_of_the_process():
    outcome = Outcome([Epoch(20.0, 0.3), Epoch(22.0, 0.5), Epoch(25.0, 0.4)], seconds=26.0)
    job = replace(JOBS["cifar"], train=100)
    assert report.images_per_second(job, outcome) == 2 * 100 / 5.0
    assert report.seconds_to(0.4, outcome) == 22.0
    assert report.seconds_to(0.6, outcome) is None
    assert report.best_accuracy(outcome) == 0.5


def test_in_a_given_time_the_most_accurate_comes_first_and_speeds_of_unlike_networks_are_not_compared():
    told = {"timm": [0.3, 0.5], "sameloop": [0.4, 0.9]}
    outcomes = {
        name: Outcome([Epoch(10.0 * n, value) for n, value in enumerate(values)], 60.0) for name, values in told.items()
    }
    entries = [Entry(PEERS[name], "", None, outcomes=[outcome]) for name, outcome in outcomes.items()]
    text = report.as_text(replace(JOBS["minutes"], seconds=60.0), entries)
    rows = re.findall(r"^\| (sameloop|timm) +\| (\S+) %", text, re.MULTILINE)
    assert rows == [("sameloop", "90.00"), ("timm", "50.00")]
    assert "images/s" not in text.splitlines()[0]
    assert "images/s" in report.as_text(JOBS["cifar"], entries).splitlines()[0]


def test_all_forms_of_the_images_hold_the_same_pixels_and_classes(layout):
    files = sorted((layout.tree / "train").rglob("*.png"))
    assert len(files) == 40
    batches = [
        pickle.loads((layout.cifar / "cifar-10-batches-py" / f"data_batch_{n}").read_bytes()) for n in range(1, 6)
    ]
    rows, labels = np.concatenate([b["data"] for b in batches]), [label for b in batches for label in b["labels"]]
    for path in files:
        number, pixels = int(path.stem), np.asarray(Image.open(path))
        assert np.array_equal(rows[number].reshape(3, 32, 32).transpose(1, 2, 0), pixels)
        assert layout.class_names[labels[number]] == path.parent.name
        assert (layout.flat / f"{path.parent.name}_{number}.jpg").samefile(path)
    assert len(list(layout.flat.iterdir())) == 50
    assert len(list((layout.tree / "test").rglob("*.png"))) == 10


@pytest.mark.slow
def test_peers_train_in_turn_and_later_rounds_are_added(fakes, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["cifar", "--script", *fakes, "--output-dir", str(out), "--lock", str(tmp_path / "lock")]
    command.main([*options, "--rounds", "2"])
    assert (out / "order").read_text().split() == ["one", "two", "two", "one"]
    command.main([*options, "--rounds", "1"])
    rows = json.loads((out / "peers.json").read_text())["peers"]
    assert [len(row["outcomes"]) for row in rows if not row["missing"]] == [3, 3]
    assert all(len(outcome["epochs"]) == 3 for row in rows for outcome in row["outcomes"])
    assert rows[0]["macs"] == 3 * 32 * 32
    text = capsys.readouterr().out
    assert re.search(r"^\| one \S+ +\| \S+ \(\S+ to \S+\)", text, re.MULTILINE), text


def test_one_line_says_why_a_peer_is_missing_and_the_others_are_run(fakes, tmp_path, capsys, monkeypatch):
    other = tmp_path / "other.py"
    other.write_text("print('nothing to edit')")
    options = ["cifar", "--peers", "one", "two", "gpu", "--rounds", "1", "--output-dir", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr("benches.peers.rounds.ABOUT", "print('1.0', 1000)")  # PyTorch is asked below
        command.main([*options, "--script", f"two={other}"])
    text = capsys.readouterr().out
    assert "one: not run: give --script one=PATH, fake.py of nobody" in text
    assert "two: not run: failed" in text
    assert "another version than this bench knows: it does not have 'MARK'" in text
    assert "gpu: not run: it needs CUDA" in text
    command.main([*options, "--script", fakes[0], "--python", f"two={sys.executable}"])
    assert "| one" in capsys.readouterr().out


def test_a_process_is_ended_with_its_workers_when_its_time_is_over(tmp_path):
    code = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    code += "print('worker', p.pid, flush=True); p.wait()"
    outcome = train([sys.executable, "-c", code], tmp_path, {}, Reading("(?P<accuracy>no)", False), 1, seconds=3.0)
    assert (outcome.epochs, outcome.failed) == ([], None)
    worker = int(re.search(r"worker (\d+)", (tmp_path / "log.txt").read_text())[1])
    deadline = time.monotonic() + 20
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("code", "seconds", "failed"), [(0, 60.0, False), (1, 60.0, True), (0, None, True)])
def test_a_process_that_ends_before_its_time_has_done_its_job_unless_it_fails(tmp_path, code, seconds, failed):
    command = [sys.executable, "-c", f"print('accuracy 50', flush=True); raise SystemExit({code})"]
    outcome = train(command, tmp_path, {}, Reading(r"accuracy (?P<accuracy>\d+)", True), 3, seconds)
    assert [epoch.accuracy for epoch in outcome.epochs] == [0.5]
    assert (outcome.failed is not None) == failed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("cifar --peers tim", "there is no peer 'tim'"),
        ("cifar --minutes 3", "--minutes is of job minutes"),
        ("cifar --python timm", "is not NAME=PATH"),
        ("flowers", "invalid choice"),
    ],
)
def test_mistakes_are_told_in_one_line(options, message, capsys):
    with pytest.raises(SystemExit) as end:
        command.main(options.split())
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_nothing_of_a_peer_is_kept_in_the_project():
    names = {path.name for path in REPOSITORY.rglob("*.py") if ".venv" not in path.parts}
    assert not names & {"complete_cv_example.py", "run_image_classification.py", "airbench94_muon.py"}
