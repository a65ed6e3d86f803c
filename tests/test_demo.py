"""demo.py: the page says of a photo what infer.load says, shows Grad-CAM's map, and lets nothing leave the machine."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import demo
import infer
import train
from common.errors import UserError
from engine.checkpoints import best_weights
from explain import demo_page
from explain.explained import Explained
from explain.layers import find_layer
from explain.pictures import overlay
from options.demo import HOST, PORTS, parse_demo
from tests.conftest import REPOSITORY, changed, write_images
from tests.driver import HANGS
from tests.test_pages import BROWSER, QUIET, needs_a_browser

needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="NOT TESTED with Gradio: pip install gradio"
)
CLASSES = ("cat", "<i>dog", "owl & co", "hen", "ox", "yak")
# A sitecustomize.py, which Python runs first: writes the hosts that the program looks up or connects to in a log.
NOTES_CONNECTIONS = """
import sys
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        host = arguments[0] if event == "socket.getaddrinfo" else arguments[1][0]
        with open(__file__.replace(".py", ".log"), "a") as log:
            print(host, file=log)
sys.addaudithook(note)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, of a CNN and of mlp, on images of classes whose names mean something to a browser, and photos/."""
    root, runs = tmp_path_factory.mktemp("data") / "pets", tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(CLASSES):
        write_images(root / name, 12, (16, 16), seed=seed)
    options = "--cpu --track none --epochs 1 --batch-size 8 --fit pad".split()
    for name, model in (("*cnn* <b>", ["small_cnn"]), ("mlp", ["mlp", "--model-arg", "hidden=8"])):
        more = ["--output-dir", str(runs), "--run-name", name, "--model", *model]
        train.main([*options, *more, "--dataset", str(root)])
    write_images(runs / "photos", 2, (40, 23))
    write_images(runs / "photos" / "grey", 1, (17, 30), mode="L")
    (runs / "photos" / "text.png").write_text("no image")
    return runs


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "--weights"),
        ("--weights w --prot 8000", "did you mean --port"),
        ("--weights w --port 0", "0 is out of range"),
        ("--weights w --port x", "'x' is not a whole number"),
        ("--weights w --port 65536", "65536 is out of range"),
    ],
)
def test_a_mistyped_option_is_one_line(capsys: pytest.CaptureFixture[str], arguments: str, says: str) -> None:
    assert says in refusal(capsys, *arguments.split())


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which demo.py refuses `arguments`."""
    with pytest.raises(SystemExit) as ended:
        demo.main(arguments)
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1), err
    return err


def test_the_page_is_for_this_machine_alone_unless_told_otherwise() -> None:
    assert parse_demo(["--weights", "w"]).host == HOST
    assert all(demo_page.promise(host).startswith("Nothing leaves") for host in (HOST, "::1", "localhost"))
    assert not any("Nothing leaves" in demo_page.promise(host) for host in ("0.0.0.0", "::", "192.168.0.7", "nas"))


def test_without_gradio_it_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    says = refusal(capsys, "--weights", str(tmp_path / "nothing"))
    assert says == "error: demo.py: gradio not installed; run 'pip install gradio'\n"


def test_a_port_in_use_and_the_address_of_another_machine_are_one_line() -> None:
    with socket.create_server((HOST, 0)) as server:
        used = server.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {used}: is in use"):
            demo.free_port(HOST, used)
    assert demo.free_port(HOST, used) == used
    assert demo.free_port(HOST, None) in PORTS
    for host in ("192.0.2.1", "no host", "x" * 300):
        with pytest.raises(UserError, match=f"--host {host}: .*give an address of this machine"):
            demo.free_port(host, None)


def test_a_photo_gets_the_classes_of_infer_load_and_the_map_of_explain(runs: Path) -> None:
    predictor = infer.load(str(runs / "*cnn* <b>"), device="cpu")
    explain = demo_page.Explainer(predictor)
    task, maps = predictor.task, 0
    layer = find_layer(predictor.model, task.inputs(torch.zeros(1, *task.image_shape, dtype=torch.uint8)), None)
    assert explain.layer.name == layer.name
    for photo in (runs / "photos" / "0.png", runs / "photos" / "1.png", runs / "photos" / "grey" / "0.png"):
        classes, picture, says = explain(photo)
        expected = predictor(photo)
        assert classes == dict(list(expected.probabilities.items())[:5])
        assert f"speaks for {expected.label}: maps of" in says
        images = np.stack([predictor._prepared(photo)])
        explained = Explained("", predictor.model, task, ["gradcam"], layer)
        heats = explained.heats("gradcam", images, [predictor.class_names.index(expected.label)])
        by_room = overlay(images[0], heats[0])
        assert picture.dtype == np.uint8 and picture.shape == (448, 448, 3)
        # Enlarged after the map was drawn over it, or before: the same but for how the map is interpolated.
        small = picture.reshape(16, 28, 16, 28, 3).mean((1, 3)) / 255
        assert np.abs(small - by_room).mean() < 0.05
        maps += says.startswith("What speaks")
    assert maps


def test_a_model_without_maps_shows_classes_alone_and_says_so(runs: Path) -> None:
    predictor = infer.load(str(runs / "mlp"), device="cpu")
    classes, picture, says = demo_page.Explainer(predictor)(runs / "photos" / "0.png")
    assert picture is None and "No heat map" in says
    assert classes == dict(list(predictor(runs / "photos" / "0.png").probabilities.items())[:5])


def test_weights_of_several_labels_an_image_are_refused(runs: Path, tmp_path: Path) -> None:
    best = runs / "mlp" / "best.pth"
    options = {**best_weights.load(best)["options"], "task": "multilabel"}
    several = changed(best, tmp_path / "several.pth", options=options)
    with pytest.raises(UserError, match=r"several\.pth: these weights do not name one class an image"):
        infer.load(str(several), device="cpu")


@pytest.fixture(scope="module")
def served(runs: Path) -> Iterator[tuple[str, Path]]:
    """The address of a page, and the folder that the server may write temporary files to."""
    place = runs.parent / "temporary"
    place.mkdir(exist_ok=True)
    command = [sys.executable, "demo.py", "--weights", str(runs / "*cnn* <b>"), "--cpu"]
    (place / "sitecustomize.py").write_text(NOTES_CONNECTIONS)
    path = os.pathsep.join(filter(None, (str(place), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"TMPDIR": str(place), "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    server = subprocess.Popen(command, cwd=REPOSITORY, env=env, text=True, stdout=subprocess.PIPE)
    try:
        line = server.stdout.readline()
        assert line.startswith("*cnn* <b>: open http://127.0.0.1:"), line
        yield line.split()[3], place
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(HANGS) == 128 + signal.SIGTERM
        assert not list(place.glob("sameloop-demo-*"))


@needs_gradio
def test_the_server_answers_as_infer_load_does_and_deletes_the_photos(
    runs: Path, served: tuple[str, Path], tmp_path: Path
) -> None:
    from gradio_client import Client, handle_file

    url, place = served
    client = Client(url, verbose=False, download_files=str(tmp_path))
    predictor = infer.load(str(runs / "*cnn* <b>"), device="cpu")
    for photo in (runs / "photos" / "0.png", runs / "photos" / "grey" / "0.png"):
        found, picture, says = client.predict(handle_file(str(photo)), api_name="/predict")
        expected = predictor(photo)
        shown = [(each["label"], each["confidence"]) for each in found["confidences"]]
        assert [label for label, _ in shown] == list(expected.probabilities)[:5]
        assert [share for _, share in shown] == pytest.approx(list(expected.probabilities.values())[:5], abs=1e-6)
        assert found["label"] == expected.label
        with Image.open(picture) as opened:
            by_explainer = demo_page.Explainer(predictor)(photo)[1]
            assert np.abs(np.asarray(opened.convert("RGB")).astype(int) - by_explainer).max() <= 1
        assert demo_page.escape(f"speaks for {expected.label}") in says
    found, picture, says = client.predict(handle_file(str(runs / "photos" / "text.png")), api_name="/predict")
    assert "cannot be read" in says and not picture
    asked = set((place / "sitecustomize.log").read_text().split())
    assert HOST in asked and asked <= {HOST, "localhost"}
    assert list(place.glob("sameloop-demo-*/**/0.png"))  # so that there is what the end of the server deletes


@needs_gradio
@needs_a_browser
def test_a_browser_shows_the_page_and_asks_no_other_machine(served: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = served
    log = tmp_path / "network.json"
    command = [BROWSER, *QUIET.split(), f"--user-data-dir={tmp_path / 'browser'}", f"--log-net-log={log}"]
    command += ["--virtual-time-budget=20000", "--dump-dom", url]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, check=True).stdout
    assert "<h1>*cnn* &lt;b&gt;</h1>" in shown
    for words in ("Nothing leaves this machine", "Photo", "Likeliest classes", "Grad-CAM"):
        assert words in shown
    own = url.rstrip("/")  # what has no page as its initiator the browser asks for by itself
    assert set(re.findall(r'"initiator":"http[^"]*",.*"url":"(\w+://[^"/]+)', log.read_text())) == {own}
    with urllib.request.urlopen(url) as answer:
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'")
