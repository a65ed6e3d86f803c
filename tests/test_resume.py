"""A run that was killed or stopped at any step, then resumed, equals the run that never was: bit for bit."""

import json
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.driver import Fault, train

# 4 steps an epoch, 3 epochs; everything that could carry state is on: batch norm, dropout, moving average, mixing.
OPTIONS = (
    "--cpu --track none --limit-train 128 --batch-size 32 --epochs 3 --model-arg width=8 dropout=0.2 --ema 0.9 "
    "--augment flip,crop=1,mixup --clip-grad 1 --mixed-precision no --checkpoint-every 3 --keep 9 --output-dir"
).split()


def options(folder: Path, *more: str) -> list[str]:
    return [*OPTIONS, str(folder), "--run-name", "run", *more]


def final_state(folder: Path) -> dict[str, bytes]:
    place = folder / "run" / "checkpoints" / "step-12"
    return {file.name: file.read_bytes() for file in sorted(place.glob("*.safetensors"))}


def figures(folder: Path) -> list[dict]:
    epochs = json.loads((folder / "run" / "train.json").read_text())["epochs"]
    return [{name: epoch[name] for name in epoch if name not in ("seconds", "images_per_second")} for epoch in epochs]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A run without a fault, on 1 and on 2 processes."""
    folders = {}
    for processes in (1, 2):
        folders[processes] = tmp_path_factory.mktemp(f"whole{processes}")
        fault = Fault(ledger=folders[processes] / "ledger")
        assert train(options(folders[processes]), processes, fault) == ([0] * processes, ANYTHING)
    return folders


class _Anything:
    def __eq__(self, other: object) -> bool:
        return True


ANYTHING = _Anything()


def ledger(folder: Path, processes: int) -> dict[int, list[str]]:
    """Sample ids of each step over all processes, in order; of a step done twice what was done last."""
    steps: dict[int, list[str]] = {}
    for rank in range(processes):
        mine = {}
        for line in (folder / f"ledger.{rank}").read_text().splitlines():
            step, *ids = line.split()
            mine[int(step)] = ids
        for step, ids in mine.items():
            steps.setdefault(step, []).extend(ids)
    return steps


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("killed_after", [6, 7, 8, 9])  # at a checkpoint, last of the epoch but one, last, first
def test_killed_and_resumed_equals_uninterrupted(
    whole_run: dict[int, Path], tmp_path: Path, killed_after: int, processes: int
) -> None:
    fault = Fault(kill_after=killed_after, ledger=tmp_path / "ledger")
    codes, _ = train(options(tmp_path), processes, fault)
    assert codes == [-signal.SIGKILL] * processes
    codes, printed = train(options(tmp_path, "--resume", "auto"), processes, Fault(ledger=tmp_path / "ledger"))
    assert codes == [0] * processes
    assert f"at step {killed_after - killed_after % 3} of 12" in printed
    assert ledger(tmp_path, processes) == ledger(whole_run[processes], processes)
    assert final_state(tmp_path) == final_state(whole_run[processes])
    assert set(final_state(tmp_path)) == {"model.safetensors", "ema.safetensors", "optimizer.safetensors"}
    assert figures(tmp_path) == figures(whole_run[processes])


def test_every_epoch_sees_each_sample_once(whole_run: dict[int, Path]) -> None:
    for processes in (1, 2):
        steps = ledger(whole_run[processes], processes)
        # Mixing is on: the first half of a micro-batch are its own samples, the second half their partners.
        for epoch in range(3):
            own = [
                sample
                for step in range(4 * epoch, 4 * epoch + 4)
                for start in range(0, 64, 64 // processes)
                for sample in steps[step][start : start + 32 // processes]
            ]
            assert len(own) == len(set(own)) == 128


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 75)])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_saves_and_the_rest_follows_as_if_nothing_had_been(
    whole_run: dict[int, Path], tmp_path: Path, number: int, code: int, processes: int
) -> None:
    codes, printed = train(options(tmp_path), processes, Fault(signal_after=(5, number)))
    assert codes == [code] * processes
    assert "stopped at step 5 of 12" in printed
    codes, _ = train(options(tmp_path, "--resume", "auto"), processes)
    assert codes == [0] * processes
    assert final_state(tmp_path) == final_state(whole_run[processes])
    assert figures(tmp_path) == figures(whole_run[processes])


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_in_evaluation_saves_at_once_and_the_evaluation_is_done_again(
    whole_run: dict[int, Path], tmp_path: Path, processes: int
) -> None:
    codes, printed = train(options(tmp_path), processes, Fault(signal_in_evaluation=(8, signal.SIGTERM)))
    assert codes == [143] * processes
    assert "stopped at step 8 of 12, saved" in printed
    assert [epoch["epoch"] for epoch in figures(tmp_path)] == [1]  # it did not wait for the evaluation of epoch 2
    assert train(options(tmp_path, "--resume", "auto"), processes)[0] == [0] * processes
    assert final_state(tmp_path) == final_state(whole_run[processes])
    assert figures(tmp_path) == figures(whole_run[processes])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_a_signal_to_one_process_stops_all_with_its_code(tmp_path: Path, number: int, code: int) -> None:
    codes, printed = train(options(tmp_path), 2, Fault(signal_after=(5, number), signal_ranks=(1,)))
    assert codes == [code, code]
    assert "stopped at step 5 of 12, saved" in printed


def test_running_out_of_time_saves_and_is_no_failure(whole_run: dict[int, Path], tmp_path: Path) -> None:
    codes, printed = train(options(tmp_path, "--max-time", "0.01s"), 2)
    assert codes == [0, 0]
    assert "stopped at step 1 of 12, saved" in printed
    assert train(options(tmp_path, "--resume", "auto"), 2)[0] == [0, 0]
    assert final_state(tmp_path) == final_state(whole_run[2])


@pytest.mark.parametrize("rank", [0, 1])
def test_nan_on_one_process_stops_all_at_that_step_with_the_weights_untouched(tmp_path: Path, rank: int) -> None:
    clean, poisoned = tmp_path / "clean", tmp_path / "poisoned"
    every = ["--checkpoint-every", "1"]
    codes, _ = train(options(clean, *every), 2, Fault(kill_after=5))
    codes, printed = train(options(poisoned, *every), 2, Fault(nan_at=(5, rank), ledger=tmp_path / "ledger"))
    assert codes == [1, 1]
    updated = [line.split()[0] for line in (tmp_path / f"ledger.lr.{rank}").read_text().splitlines()]
    assert updated == ["0", "1", "2", "3", "4"]  # the update of step 5 never happened
    assert f"not finite at step 5 (process {rank}, samples [" in printed
    names = sorted(path.name for path in (poisoned / "run" / "checkpoints").iterdir())
    assert names == [f"step-{step}" for step in range(1, 6)]
    for name in ("model", "ema", "optimizer"):
        file = f"run/checkpoints/step-5/{name}.safetensors"
        assert (poisoned / file).read_bytes() == (clean / file).read_bytes()


def test_same_seed_same_run_and_another_seed_another(whole_run: dict[int, Path], tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    train(options(again))
    train(options(other, "--seed", "1"))
    assert final_state(again) == final_state(whole_run[1])
    assert final_state(other) != final_state(whole_run[1])


def test_the_first_weights_depend_on_the_seed(tmp_path: Path) -> None:
    drawn = []
    for seed in ("0", "1"):
        one_step = options(tmp_path / seed, "--seed", seed, "--lr", "1e-30", "--checkpoint-every", "1")
        train(one_step, 1, Fault(kill_after=1))
        drawn.append(load_file(tmp_path / seed / "run/checkpoints/step-1/model.safetensors"))
    matrices = [name for name, value in drawn[0].items() if value.ndim > 1]
    assert matrices
    assert all((drawn[0][name] != drawn[1][name]).float().mean() > 0.9 for name in matrices)


def test_changed_options_are_named_and_nothing_is_touched(whole_run: dict[int, Path], tmp_path: Path) -> None:
    train(options(tmp_path), 1, Fault(kill_after=6))
    before = sorted(path for path in tmp_path.rglob("*") if "log-" not in path.name)
    codes, printed = train(options(tmp_path, "--resume", "auto", "--lr", "0.5", "--ema", "0.5"))
    assert codes == [2]
    assert "--lr was 0.002 and is 0.5" in printed
    assert "--ema was 0.9 and is 0.5" in printed
    assert sorted(path for path in tmp_path.rglob("*") if "log-" not in path.name) == before


def test_more_epochs_than_before_may_be_asked_for(tmp_path: Path) -> None:
    train(options(tmp_path, "--schedule", "constant", "--warmup", "0"))
    train(options(tmp_path, "--schedule", "constant", "--warmup", "0", "--resume", "auto", "--epochs", "4"))
    assert [epoch["epoch"] for epoch in figures(tmp_path)] == [1, 2, 3, 4]


def test_a_run_that_is_under_way_is_left_alone(tmp_path: Path) -> None:
    from engine.output.run_dir import claim, release

    (tmp_path / "run").mkdir()
    kept = claim(tmp_path / "run")
    codes, printed = train(options(tmp_path, "--resume", "auto"))
    assert codes == [2]
    assert "is under way in another process" in printed
    assert list((tmp_path / "run").iterdir()) == []
    release(kept)
    assert train(options(tmp_path, "--resume", "auto"))[0] == [0]
