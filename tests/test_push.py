"""Weights go to the Hugging Face Hub with a card that is true to the run's figures, and are read back from there."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
import yaml

import export
import train
from common.console import percent
from common.errors import UserError
from deploy import model_card, publish
from engine.checkpoints import best_weights
from options.export import parse_export
from options.infer import parse_infer
from options.train import parse_train
from tests.conftest import REPOSITORY, fresh_process, write_images

SEEN = "--cpu --track none --model mlp --model-arg hidden=8 --epochs 1 --batch-size 8".split()
COMMIT = "1" * 40
# Several commands in one process, as importing PyTorch takes seconds: each with what it ends with.
COMMANDS = """
import importlib, json, sys
from tests.conftest import fresh_process
for name, *arguments in json.loads(sys.argv[1]):
    fresh_process()
    code = 0
    try:
        importlib.import_module(name).main(arguments)
    except SystemExit as ended:
        code = ended.code or 0
    print(f"{name} ended with {code}", flush=True)
"""


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks to make a repository, to commit files that are not LFS, and to download one."""

    def do_POST(self) -> None:
        body, hub = self.rfile.read(int(self.headers["Content-Length"])), self.server
        hub.asked.append((self.path, self.headers.get("Authorization"), body))
        if self.headers.get("Authorization") != "Bearer hf_may_write":
            return self.reply({"error": "Unauthorized"}, 401)
        if self.path == "/api/repos/create":
            return self.reply({"url": f"{hub.address}/me/pets"})
        if self.path == "/api/validate-yaml":
            return self.reply({})
        if self.path == "/api/models/me/pets/preupload/main":
            paths = [file["path"] for file in json.loads(body)["files"]]
            return self.reply(
                {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
            )
        assert self.path == "/api/models/me/pets/commit/main", self.path
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.reply({"commitUrl": f"{hub.address}/me/pets/commit/{COMMIT}", "commitOid": COMMIT})

    def do_HEAD(self) -> None:
        found = re.fullmatch(f"/me/pets/resolve/(?:main|{COMMIT})/(.+)", self.path)
        if found is None or found[1] not in self.server.files:
            return self.reply({}, 404, {"X-Error-Code": "EntryNotFound" if found else "RepoNotFound"})
        content = self.server.files[found[1]]
        return self.answer(content, 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{hash(content):x}"'})

    do_GET = do_HEAD

    def reply(self, value: dict, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.answer(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def answer(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.address, server.files, server.asked = f"http://127.0.0.1:{server.server_port}", {}, []
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on cats, dogs and few owls; one test image is in train too."""
    root = tmp_path_factory.mktemp("data") / "pets"
    for split, count in (("train", 30), ("test", 12)):
        for seed, name in enumerate(("cat", "dog", "owl")):
            write_images(root / split / name, count - 5 * seed, (12, 12), seed=seed + 10 * (split == "test"))
    (root / "test" / "cat" / "0.png").write_bytes((root / "train" / "cat" / "0.png").read_bytes())
    runs = tmp_path_factory.mktemp("runs")
    fresh_process()
    train.main([*SEEN, "--dataset", str(root), "--output-dir", str(runs), "--run-name", "run"])
    return runs / "run"


def processes(endpoint: str, place: Path, *commands: list) -> tuple[str, str]:
    """Run commands with the Hub at `endpoint` and a cache of its own: (standard output, standard error)."""
    left = {
        name: value for name, value in os.environ.items() if not name.startswith("HF_") and "PROXY" not in name.upper()
    }
    told = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(place / "hf"),
        "HF_TOKEN": "hf_may_write",
        "PYTHONPATH": str(REPOSITORY),
    }
    environment = left | told
    arguments = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, arguments], cwd=place, env=environment, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout, done.stderr


def of_card(text: str) -> tuple[dict, dict[str, list[str]]]:
    """(its metadata, the rows of its tables by their first cell)."""
    _, metadata, body = text.split("---\n", 2)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if line[:1] == "|"]
    return yaml.safe_load(metadata), {row[0]: row[1:] for row in cells}


@pytest.fixture(scope="module")
def folder(run: Path) -> Path:
    """Written without a network: no socket connects."""

    def refuse(*_: object) -> None:
        raise AssertionError("asks the network")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(socket.socket, "connect", refuse)
        fresh_process()
        export.main(["--weights", str(run), "--card-only", "--license", "mit"])
    assert not ended.value.code
    return run / "best-card"


def test_the_cards_figures_are_those_of_the_test(run: Path, folder: Path) -> None:
    test = json.loads((run / "test.json").read_text())
    text = (folder / "README.md").read_text(encoding="utf-8")
    metadata, rows = of_card(text)
    assert (metadata["license"], metadata["library_name"]) == ("mit", "sameloop")
    assert metadata["metrics"] == ["accuracy"] and "datasets" not in metadata
    (result,) = metadata["model-index"][0]["results"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values == {"accuracy": test["accuracy"], "f1": test["f1"]["macro"]}
    low, high = test["intervals"]["accuracy"]
    assert rows["accuracy"] == [percent(test["accuracy"]), f"{percent(low)} to {percent(high)}"]
    assert rows["macro F1"][0] == percent(test["f1"]["macro"])
    assert rows["calibration error"][0] == percent(test["calibration"]["error"])
    assert test["samples"] == 21 and "On 21 test images" in text
    assert "fewest test images, whose figures are the least certain: owl (2), dog (7), cat (12)." in text
    assert "Test images that are in the training set too, pixel by pixel: 1 of 21." in text
    assert rows["--model"] == ["mlp", "cnn"] and rows["--epochs"][0] == "1"
    assert "They say nothing about other kinds of photos" in text


def test_the_folder_is_whole_and_tells_no_folder_of_this_machine(run: Path, folder: Path) -> None:
    pictures = {name for name in ("confusion_matrix.png", "examples.png", "curves.png") if (run / name).exists()}
    names = {"README.md", "best.pth", "model.safetensors", "config.json", *pictures}
    assert {path.name for path in folder.iterdir()} == names and len(pictures) >= 2
    for name in pictures:
        assert f"]({name})" in (folder / "README.md").read_text() and (folder / name).stat().st_size
    own, public = best_weights.load(run / "best.pth"), best_weights.load(folder / "best.pth")
    assert str(run.parent).encode() in (run / "best.pth").read_bytes()  # so the search can find something
    for path in folder.iterdir():
        assert str(run.parent).encode() not in path.read_bytes(), path
        assert own["options"]["dataset"].encode() not in path.read_bytes(), path
    assert public["options"]["dataset"] == "pets" and public["class_names"] == own["class_names"]
    assert all(torch.equal(value, public["weights"][name]) for name, value in own["weights"].items())


def test_a_card_names_data_sets_of_the_hub_and_no_name_is_markup(run: Path) -> None:
    content = best_weights.load(run / "best.pth")
    content |= {"class_names": ["a|b", "*c*", "d\ne"], "model": "timm/test_vit", "temperature": 1.5}
    content["options"] = content["options"] | {"dataset": "cifar10"}
    text = model_card.card(content, {"test": {}, "train": {}, "environment": {}}, [], "me/pets", None)
    metadata = of_card(text)[0]
    assert metadata["datasets"] == ["uoft-cs/cifar10"] and metadata["library_name"] == "timm"
    assert "license" not in metadata and "model-index" not in metadata
    assert "3 classes: a\\|b, \\*c\\*, d e." in text
    assert 'load("hf:me/pets")' in text and 'create_model("hf-hub:me/pets"' in text
    assert "no report of a test" in text and "not calibrated" not in text


def test_weights_are_pushed_and_read_back(hub: ThreadingHTTPServer, run: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 3, (12, 12))
    predict = ["infer", "photos", "--cpu", "--output"]
    out, err = processes(
        hub.address,
        tmp_path,
        ["export", "--weights", run, "--push", "me/pets", "--private", "--output", "card"],
        [*predict, "own.json", "--weights", run],
        [*predict, "back.json", "--weights", "hf:me/pets"],
        [*predict, "none.json", "--weights", "hf:me/cars"],
        ["train", *SEEN, "--dataset", best_weights.load(run / "best.pth")["options"]["dataset"]]
        + ["--pretrained", "hf:me/pets", "--run-name", "tuned"],
    )
    ends = [line for line in out.splitlines() if " ended with " in line]
    codes = [int(line.rsplit(" ", 1)[1]) for line in ends]
    assert codes == [0, 0, 0, 2, 0], (out, err)
    assert f"pushed   {hub.address}/me/pets" in out
    assert json.loads(hub.asked[0][2])["visibility"] == "private"
    assert hub.files == {path.name: path.read_bytes() for path in (tmp_path / "card").iterdir()}
    assert (tmp_path / "back.json").read_text() == (tmp_path / "own.json").read_text()
    assert "error: --weights hf:me/cars: not on the Hub, or not for you to see: check the name" in err
    assert re.search(r"[1-9]\d* weights and statistics from --pretrained hf:me/pets; .*all of them", out)
    assert (tmp_path / "runs" / "tuned" / "test.json").is_file()


def test_a_refused_token_is_said_in_a_line(
    hub: ThreadingHTTPServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(UserError, match=r"^--push me/pets: the Hub refuses the token: give one that may write to me$"):
        publish.upload(folder, ["README.md"], "me/pets", private=False)
    assert [path for path, *_ in hub.asked] == ["/api/repos/create"] and not hub.files


def test_without_a_token_nothing_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        export.main(["--weights", str(run), "--push", "me/pets", "--output", str(tmp_path / "none")])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1
    assert error.startswith("error: --push needs a token that may write: log in with")
    assert not (tmp_path / "none").exists()


def test_without_a_network_what_is_to_do_is_said_in_a_line(run: Path, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there
        out, err = processes(
            f"http://127.0.0.1:{closed.getsockname()[1]}",
            tmp_path,
            ["export", "--weights", run, "--push", "me/pets", "--output", "unreached"],
            ["infer", "--cpu", "--weights", "hf:me/pets", run / "examples.png"],
        )
    assert out.count("ended with 2") == 2, out
    first, second = err.splitlines()
    assert first.startswith("error: --push me/pets: the Hub is out of reach (") and "push again" in first
    assert (tmp_path / "unreached" / "README.md").is_file()
    assert second.startswith("error: --weights hf:me/pets: the Hub is out of reach, and its cache has no copy: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--push", "pets"], "'pets' is not OWNER/NAME"),
        (["--push", "me/pets", "--card-only"], "leave one of them out"),
        (["--card-only", "--int8"], "--int8: of exported files"),
        (["--license", "mit"], "--license is of the model card"),
        (["--card-only", "--private"], "--private is of the repository of --push"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_export(["--weights", "best.pth", *options])


def test_names_on_the_hub_stay_as_they_are() -> None:
    assert parse_infer(["--weights", "hf:me/pets"]).weights == "hf:me/pets"
    assert parse_train(["--dataset", "digits", "--pretrained", "hf:me/pets"]).pretrained == "hf:me/pets"
    for parse, option in ((parse_infer, ["--weights"]), (parse_train, ["--dataset", "digits", "--pretrained"])):
        with pytest.raises(UserError, match="hf:me: weights on the Hub are named hf:OWNER/NAME"):
            parse([*option, "hf:me"])
