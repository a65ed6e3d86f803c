"""Two machines train one model: the same as one process does, told of each other's end, and resumed in any way."""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import write_images
from tests.two_machines import LAUNCHERS, LIMIT, Machine, Pair, a_moment, pair, until

__all__ = ["pair"]
pytestmark = pytest.mark.slow

# No batch norm; 20 steps.
OPTIONS = (
    "--track none --model mlp --model-arg hidden=32 --mixed-precision no --batch-size 32 --augment flip,crop=1 "
    "--run-name run"
).split()
PHOTOS = [*OPTIONS, *"--dataset photos --epochs 4".split()]
# Goes on until it is stopped.
LONG = [*OPTIONS, *"--limit-train 640 --schedule constant --epochs 100000 --checkpoint-every 5".split()]
ENDS_WITHIN = 60  # seconds after a machine was lost


def finished(started: list[subprocess.Popen], machines: list[Machine], code: int = 0) -> None:
    for process in started:
        process.wait(LIMIT)
    printed = "\n".join(machine.log for machine in machines)
    assert [process.returncode for process in started] == [code] * len(started), printed


def alone(machine: Machine, *options: str) -> None:
    """One process on one machine, to its end."""
    finished([machine.start(sys.executable, "spied.py", "--cpu", *options)], [machine])


def batches(machines: list[Machine], processes: int) -> list[list[str]]:
    """The ids of the images of each step, those of all processes one after another."""
    each = len(machines)
    of_ranks = [
        (machines[rank * each // processes].folder / f"batches.{rank}").read_text().splitlines()
        for rank in range(processes)
    ]
    return [" ".join(step).split() for step in zip(*of_ranks, strict=True)]


def weights(machine: Machine, name: str = "run") -> dict[str, torch.Tensor]:
    newest = max(machine.steps(name))
    return load_file(machine.project / "runs" / name / "checkpoints" / f"step-{newest}" / "model.safetensors")


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max((one[name] - other[name]).abs().max().item() for name in one)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def give_photos(machines: list[Machine]) -> None:
    for machine in machines:
        for name in ("cat", "dog"):
            write_images(machine.project / "photos" / name, 120)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_machines_train_what_one_process_trains(pair: Pair, launcher: str) -> None:
    first, second = pair.machines
    give_photos(pair.machines)
    finished(pair.start(launcher, PHOTOS, "spied.py", each=2), pair.machines)
    assert (first.folder / "decoded").read_text() == "0\n"  # once a machine, by its first process
    assert (second.folder / "decoded").read_text() == "2\n"
    assert not (second.project / "runs").exists()
    together, seen = weights(first), batches(pair.machines, 4)
    written = files(first.project / "runs" / "run")
    for machine in pair.machines:
        for file in machine.folder.glob("batches.*"):
            file.unlink()
    alone(first, *PHOTOS, "--run-name", "alone")
    assert written == files(first.project / "runs" / "alone")
    assert batches([first], 1) == seen and len(seen) == 4 * (len(seen) // 4) > 0
    assert difference(together, weights(first, "alone")) < 1e-6
    alone(first, *PHOTOS, "--run-name", "other", "--seed", "1")  # that the comparison would notice another run
    assert difference(together, weights(first, "other")) > 1e-3


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("lost", [0, 1, None], ids=["the first", "the second", "the cable"])
def test_when_a_machine_or_the_cable_is_lost_the_others_end_and_say_so(
    pair: Pair, launcher: str, lost: int | None
) -> None:
    started = pair.start(launcher, LONG)
    until(lambda: any(machine.steps("run") for machine in pair.machines), started, pair.machines)
    a_moment()
    if lost is None:
        pair.cut()
    else:
        pair.machines[lost].pull_the_plug()
    deadline = time.monotonic() + ENDS_WITHIN
    left = [machine for machine in pair.machines if machine.number != lost]
    for machine in left:
        code = started[machine.number].wait(max(0.0, deadline - time.monotonic()))
        assert code != 0
        assert not machine.workers()
        other = 1 - machine.number
        assert len(machine.errors) == 1, machine.log
        assert f"on machine-{other} has failed" in machine.errors[0]
        assert "nothing was heard of it for 30 seconds" in machine.errors[0]
    # The machine that has the checkpoints goes on alone, and says from where.
    keeper = next((machine for machine in left if machine.steps("run")), None)
    if keeper is not None:
        assert "--resume runs/run" in keeper.errors[0]
        step = max(keeper.steps("run"))
        pair.clear()
        alone(keeper, *LONG, "--resume", "auto", "--max-time", "20s")
        assert f"at step {step} of" in keeper.log
        assert max(keeper.steps("run")) > step


def test_a_run_goes_on_with_the_machines_swapped_and_on_one_alone(pair: Pair) -> None:
    first, second = pair.machines
    options = [*OPTIONS, *"--limit-train 640 --epochs 20 --checkpoint-every 5".split()]

    def killed_after(first_rank: int, writes: Machine, steps: int) -> int:
        more = ["--resume", "auto"]
        started = pair.start("accelerate", [*options, *more], first=first_rank)
        until(lambda: max(writes.steps("run"), default=0) >= steps, started, pair.machines)
        for machine in pair.machines:
            for process in machine.processes():
                process.kill()
        for process in started:
            process.wait(LIMIT)
        return max(writes.steps("run"))

    reached = killed_after(0, first, 50)
    pair.clear()
    again = killed_after(1, second, reached + 50)
    assert f"at step {reached} of" in second.log  # from the checkpoint that the first machine had
    pair.clear()
    third = killed_after(1, second, again + 25)  # and from its own, which is newer
    assert f"at step {again} of" in second.log
    pair.clear()
    alone(second, *options, "--resume", "auto")
    assert f"at step {third} of" in second.log
    alone(first, *options, "--run-name", "never-stopped")
    assert difference(weights(second), weights(first, "never-stopped")) < 1e-6


def test_clocks_an_hour_apart_and_other_numbers_of_cores_change_nothing(pair: Pair, tmp_path: Path) -> None:
    first, second = pair.machines
    if shutil.which("cc") is None:
        pytest.skip("NOT TESTED with clocks an hour apart: there is no C compiler to make such a clock")
    ahead = tmp_path / "ahead.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", ahead, Path(__file__).parent / "fixtures" / "ahead.c"], check=True)
    give_photos(pair.machines)
    second.environment["LD_PRELOAD"] = str(ahead)
    second.cores |= first.cores
    finished(pair.start("torchrun", PHOTOS, "spied.py"), pair.machines)
    clock = subprocess.run(["date", "+%s"], env=second.environment, capture_output=True, text=True, check=True)
    assert int(clock.stdout) > time.time() + 3500
    seen, together = batches(pair.machines, 2), weights(first)
    for machine in pair.machines:
        (machine.folder / f"batches.{machine.number}").unlink()
    alone(first, *PHOTOS, "--run-name", "alone")
    assert batches([first], 1) == seen
    assert difference(together, weights(first, "alone")) < 1e-6


@pytest.mark.parametrize("differs", ["code", "missing code", "option", "data"])
def test_what_differs_on_one_machine_is_refused_by_name_with_nothing_written(pair: Pair, differs: str) -> None:
    second = pair.machines[1]
    give_photos(pair.machines)
    expected = {
        "code": "the machines have other code or packages: models/mlp.py is",
        "missing code": "models/vit.py is missing on process 0 and",
        "option": "the processes were started with other options: --lr is",
        "data": "the processes have other images: the train part is",
    }[differs]
    if differs == "code":
        with (second.project / "models" / "mlp.py").open("a") as file:
            file.write("# changed\n")
    elif differs == "missing code":
        (second.project / "models" / "vit.py").write_text("")
    elif differs == "data":
        (second.project / "photos" / "cat" / "0.png").unlink()
    own = [["--lr", "0.1"], ["--lr", "0.2"]] if differs == "option" else [[], []]
    started = pair.start("accelerate", PHOTOS, own=own)
    for process in started:
        assert process.wait(LIMIT) != 0
    for machine in pair.machines:
        assert len(machine.errors) == 1 and expected in machine.errors[0], machine.log
        assert not (machine.project / "runs").exists()


def test_a_machine_that_does_not_get_through_to_the_other_says_by_which_interface(pair: Pair) -> None:
    for machine in pair.machines:
        machine.environment["GLOO_SOCKET_IFNAME"] = "lo"  # where gloo listens if it goes by the machine's name
    started = pair.start("torchrun", LONG)
    deadline = time.monotonic() + LIMIT
    while not any(process.poll() for process in started) and time.monotonic() < deadline:
        time.sleep(0.1)
    said = [line for machine in pair.machines for line in machine.errors]
    assert len(said) == 1 and "does not get through to them by lo: let all ports" in said[0], said
    assert not any((machine.project / "runs").exists() for machine in pair.machines)


ELASTIC = ["--nnodes", "1:2", "--max-restarts", "3"]


def test_torchrun_restarts_a_killed_worker_and_the_run_goes_on_without_a_hand(pair: Pair) -> None:
    options = [*OPTIONS, *"--limit-train 640 --epochs 20 --checkpoint-every 5 --resume auto".split()]
    started = pair.start("torchrun", options, more=ELASTIC)
    until(lambda: any(machine.steps("run") for machine in pair.machines), started, pair.machines)
    a_moment()
    random.choice([worker for machine in pair.machines for worker in machine.workers()]).kill()
    finished(started, pair.machines)
    keeper = next(machine for machine in pair.machines if machine.steps("run"))
    assert "resuming runs/run/checkpoints/step-" in keeper.log
    alone(keeper, *options, "--run-name", "never-stopped")
    assert difference(weights(keeper), weights(keeper, "never-stopped")) < 1e-6
