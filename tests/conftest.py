"""What several test files need: real data sets, a cache of their own, made-up images, a trained model's predictions."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Threads that wait for one another spin by default, which on cores that are busy with other work takes several times as
# long. OpenMP reads this once, when torch is imported; processes that tests start inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import psutil
import pyarrow.parquet
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

import infer
import train
from engine.checkpoints import best_weights
from tests.driver import HANGS, leave_pictures_blank, one_thread

REPOSITORY = Path(__file__).resolve().parent.parent
# What the report of a classifier has, beside curves.png.
REPORT = (
    "test.json",
    "test.csv",
    "loss.png",
    "accuracy.png",
    "confusion_matrix.png",
    "reliability.png",
    "examples.png",
)


def pytest_configure(config: pytest.Config) -> None:
    """A runner in the background, or under nohup, hands on signals that are ignored; tests send them to processes."""
    for number in {signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    one_thread()
    config.pluginmanager.register(FailuresAtOnce(config))


class FailuresAtOnce:
    """Prints a failure when it happens: a run that is cut off from outside never comes to its summary."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write_line(f"\nfailed: {report.nodeid}\n{report.longreprtext}")


@pytest.fixture(scope="module", autouse=True)
def pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each a single pixel but where a file looks at them (`pytestmark = pytest.mark.draws`): they take 2 s a report."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("draws") is None:
            leave_pictures_blank(patch.setattr)
        yield


@pytest.fixture(scope="session")
def real_data() -> str:
    """The folder of real data sets; decoded copies are kept in the user's own cache, as they cost seconds to make."""
    folder = Path(os.environ.get("SAMELOOP_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"NOT TESTED on real data: no folder {folder}; set SAMELOOP_DATA to one with mnist/, ...")
    return str(folder)


@pytest.fixture(scope="session")
def some_of_the_data(real_data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same data sets with the first 300 images of each file, for what needs no more."""
    place = tmp_path_factory.mktemp("data")
    for whole in Path(real_data).glob("*/*.parquet"):
        (place / whole.parent.name).mkdir(exist_ok=True)
        with pyarrow.parquet.ParquetFile(whole) as file:
            first = next(file.iter_batches(batch_size=300))
        pyarrow.parquet.write_table(pyarrow.Table.from_batches([first]), place / whole.parent.name / whole.name)
    return place


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches of decoded images and of `datasets` in a temporary folder; returns the one of decoded images."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf" / "datasets"))
    return tmp_path / "hf" / "sameloop"


def write_images(folder: Path, count: int, size: tuple[int, int] = (8, 8), mode: str = "RGB", seed: int = 0) -> None:
    """PNG files 0.png, 1.png, ... of noise; `size` is (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng([seed, *folder.name.encode()])
    for number in range(count):
        pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{number}.png")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("NOT TESTED: a full disk, as only root may mount one of 256 kB")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """tree(*folders, **options of write_images) makes tmp_path/pets with images in these folders."""

    def make(*folders: str, count: int = 10, **options) -> Path:
        for seed, folder in enumerate(folders):
            write_images(tmp_path / "pets" / folder, count, seed=seed, **options)
        return tmp_path / "pets"

    return make


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A run of two epochs on the built-in digits."""
    place = tmp_path_factory.mktemp("runs")
    options = ["--dataset", "digits", "--epochs", "2", "--cpu", "--track", "none"]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SAMELOOP_DATA", raising=False)
        fresh_process()
        train.main([*options, "--output-dir", str(place), "--run-name", "tiny"])
    return place / "tiny"


@pytest.fixture
def best(run_folder, monkeypatch):
    monkeypatch.delenv("SAMELOOP_DATA", raising=False)
    return run_folder / "best.pth"


def fresh_process():
    """Accelerate refuses a second precision in one process."""
    AcceleratorState._reset_state(reset_partial_state=True)


def predict(capsys, *arguments):
    """Run infer.py on the CPU: (exit code, standard output, standard error)."""
    fresh_process()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        infer.main(["--cpu", *map(str, arguments)])
    return ended.value.code or 0, *capsys.readouterr()


def refusal(capsys, *arguments):
    """The one line with which infer.py refuses `arguments`."""
    code, out, err = predict(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def changed(best, place, **changes):
    """A copy of a weights file in which some entries are others."""
    torch.save({**best_weights.load(best), **changes}, place)
    return place


def nobody_is_left(launcher: subprocess.Popen) -> bool:
    """No process of the launcher's session is alive; waits a little for those that are ending."""
    for _ in range(10 * HANGS):
        alive = [p for p in psutil.process_iter() if _session(p.pid) == launcher.pid and p.status() != "zombie"]
        if not alive:
            return True
        time.sleep(0.1)
    return False


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
