"""A checkpoint is complete or not there: under SIGKILL at every moment of a save, damage, and a full disk."""

import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from data import cache, decode_all
from data.readers import RawSplit
from data.survey import survey
from engine.checkpoints import store
from tests.driver import Fault, server, train

REPOSITORY = Path(__file__).resolve().parent.parent
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "pathlib.Path.glob", "os.listdir"}


def tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"weight": torch.full((50,), float(step))}, "optimizer": {"0.momentum": torch.ones(50) * step}}


def save(parent: Path, step: int, keep: int = 2) -> None:
    store.save(parent / f"step-{step}", tensors(step), {"step": step}, keep)


class Tied(torch.nn.Module):
    """A layer in two places, and a buffer that is a part of another's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 3)
        self.middle = torch.nn.Linear(3, 3, bias=False)
        self.last = self.first
        self.register_buffer("whole", torch.rand(4))
        self.register_buffer("part", self.whole[1:3])


def test_tensors_that_a_model_shares_are_saved_once_and_come_back_shared(tmp_path: Path) -> None:
    model, other = Tied(), Tied()
    store.save(tmp_path / "step-1", {"model": model.state_dict()}, {"step": 1}, keep=1)
    saved, _ = store.load(tmp_path / "step-1")
    assert set(saved["model"]) == {"first.weight", "first.bias", "middle.weight", "whole", "part"}
    store.load_weights(other, saved["model"], "here")
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert other.last.weight is other.first.weight
    everything = {name: value.clone() for name, value in model.state_dict().items()}  # as earlier versions saved them
    store.load_weights(other, everything, "here")


def _save_and_be_killed(parent: Path, step: int, keep: int, moment: int) -> None:
    """Save, and die before the `moment`-th time that a file or folder is touched."""
    count = 0

    def touched(event: str, _arguments: tuple) -> None:
        nonlocal count
        if event in CHANGES:
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(touched)
    save(parent, step, keep)


@pytest.mark.parametrize(("keep", "damaged"), [(2, False), (1, True)], ids=["two-kept", "one-kept-and-one-damaged"])
def test_sigkill_at_every_file_boundary_of_a_save_leaves_an_intact_checkpoint(
    tmp_path: Path, keep: int, damaged: bool
) -> None:
    survivors = []
    for moment in range(1, 500):
        parent = tmp_path / str(moment)
        save(parent, 1, keep)
        save(parent, 2, keep)
        if damaged:  # the place of the new one is taken by what an earlier crash left
            (parent / "step-3").mkdir()
        worker = server.Process(target=_save_and_be_killed, args=(parent, 3, keep, moment))
        worker.start()
        worker.join()
        folder, loaded, state, _ = store.newest_intact(parent)
        survivors.append(state["step"])
        assert torch.equal(loaded["model"]["weight"], tensors(state["step"])["model"]["weight"])
        assert folder.name == f"step-{state['step']}"
        save(parent, 4, keep)
        assert {path.name for path in parent.iterdir()} <= {"step-4", "step-3", "step-2"}
        assert len(list(parent.iterdir())) == keep  # no litter
        if worker.exitcode == 0:
            break
        assert worker.exitcode == -signal.SIGKILL
    assert moment > 15  # it was killed at that many places
    assert set(survivors) == {2, 3}
    assert survivors == sorted(survivors)  # once the new one is there it stays


DAMAGES = {
    "truncated": lambda place: os.truncate(place / "model.safetensors", 100),
    "bit-flipped": lambda place: _flip(place / "optimizer.safetensors"),
    "missing file": lambda place: (place / "state.json").unlink(),
    "wrong manifest": lambda place: (place / "manifest.json").write_text('{"sha256": 7}'),
    "no manifest": lambda place: (place / "manifest.json").unlink(),
}


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_auto_falls_back(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    (tmp_path / ".step-3.tmp").mkdir()  # a save that was killed: no checkpoint
    DAMAGES[damage](tmp_path / "step-2")
    with pytest.raises(store.Damaged, match=r"step-2"):
        store.load(tmp_path / "step-2")
    folder, _, state, complaints = store.newest_intact(tmp_path)
    assert (folder.name, state["step"]) == ("step-1", 1)
    assert len(complaints) == 1
    assert "step-2" in complaints[0]
    shutil.rmtree(tmp_path / "step-1")
    with pytest.raises(UserError, match=r"no checkpoint in .* is intact"):
        store.newest_intact(tmp_path)


def test_a_run_falls_back_past_a_damaged_checkpoint_and_says_so(tmp_path: Path) -> None:
    argv = "--cpu --track none --limit-train 128 --batch-size 32 --epochs 2 --model mlp --run-name run".split()
    argv += ["--output-dir", str(tmp_path), "--checkpoint-every", "2"]
    assert train(argv, 1, Fault(kill_after=6))[0] == [-signal.SIGKILL]
    _flip(tmp_path / "run/checkpoints/step-6/model.safetensors")
    codes, printed = train([*argv, "--resume", "auto"])
    assert codes == [0]
    assert "warning:" in printed
    assert "step-6/model.safetensors is not what was saved" in printed
    assert "at step 4 of 8" in printed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("NOT TESTED on a full disk: mounting a small one needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(
    ("filled_after", "unwritten", "newest"),
    [(3, "run/best.pth", 2), (5, "run/checkpoints/step-6", 4)],
    ids=["weights", "checkpoint"],
)
def test_a_disk_that_fills_up_ends_the_run_in_one_line_and_the_last_checkpoint_loads(
    small_disk: Path, filled_after: int, unwritten: str, newest: int
) -> None:
    argv = "--cpu --track none --limit-train 128 --batch-size 32 --epochs 2 --model mlp --run-name run".split()
    argv += ["--output-dir", str(small_disk), "--checkpoint-every", "2"]
    codes, printed = train(argv, 1, Fault(fill_disk_after=filled_after))
    assert codes == [2], printed
    assert printed.splitlines()[-1].startswith("error: ")
    assert str(small_disk / unwritten) in printed.splitlines()[-1]
    assert "Traceback" not in printed
    (small_disk / "ballast").unlink()
    folder, _, state, complaints = store.newest_intact(small_disk / "run" / "checkpoints")
    assert (folder.name, state["step"], complaints) == (f"step-{newest}", newest, [])
    codes, _ = train([*argv, "--resume", "auto"])
    assert codes == [0]
    assert {path.name for path in (small_disk / "run" / "checkpoints").iterdir()} == {"step-6", "step-8"}


def test_a_disk_that_is_full_from_the_start_is_refused_before_anything_is_written(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(25_000_000))
    argv = ["--cpu", "--track", "none", "--model", "mlp", "--output-dir", str(small_disk / "runs")]
    import train as script

    with pytest.raises(SystemExit) as stopped:
        script.main(argv)
    assert stopped.value.code == 2
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


class Malice:
    """Unpickling it would create a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple:
        return Path.touch, (self.proof,)


def a_cache(folder: Path) -> Path:
    """A data set of one image, decoded."""
    png = io.BytesIO()
    Image.new("L", (8, 8)).save(png, "PNG")
    split = RawSplit(1, lambda rows: [{"bytes": png.getvalue(), "path": None} for _ in rows], [0], ["a"], "mark")
    decode_all.build(folder, {"train": split}, survey({"train": split}), image_size=None, skip_bad_images=False)
    return folder


def test_no_pickle_is_ever_run(tmp_path: Path) -> None:
    proof = tmp_path / "it ran"
    poison = pickle.dumps(Malice(proof))
    for name in ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"):
        folder = tmp_path / name / "step-1"
        save(folder.parent, 1)
        (folder / name).write_bytes(poison)
        if name != "manifest.json":  # an attacker would mend the manifest, too
            manifest = json.loads((folder / "manifest.json").read_text())
            manifest["sha256"][name] = store._sha256(folder / name)
            (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(store.Damaged):
            store.load(folder)
    decoded = a_cache(tmp_path / "cache")
    assert cache.read(decoded) is not None
    for array in cache.ARRAYS:
        file = decoded / f"train-{array}.npy"
        content = file.read_bytes()
        np.save(file, np.array([Malice(proof)], dtype=object), allow_pickle=True)
        assert cache.read(decoded) is None
        file.write_bytes(content)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"lr: !!python/object/apply:os.mkdir ['{proof}']\n")
    from options.train import parse_train

    with pytest.raises(UserError, match=r"could not determine a constructor"):
        parse_train(["--recipe", str(recipe)])
    assert not proof.exists()
    assert pickle.loads(poison) is None  # the control: the poison works
    assert proof.exists()


def test_nothing_is_loaded_with_weights_only_false() -> None:
    unsafe = ("weights_only=" + "False", "allow_pickle=" + "True", "yaml." + "load(", "pickle." + "load")
    rooms = [init.parent for init in REPOSITORY.glob("*/__init__.py") if init.parent.name != "tests"]
    files = [*REPOSITORY.glob("*.py"), *(path for room in rooms for path in room.rglob("*.py"))]
    assert {"train.py", "cache.py", "best_weights.py"} <= {path.name for path in files}
    for path in files:
        assert not any(call in path.read_text(encoding="utf-8") for call in unsafe), path
