"""The same run on one process or many: the same samples, learning rates and, to rounding, the same weights."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.errors import UserError
from engine.build import default_batch_size, plan_steps
from options.train import parse_train
from tests.driver import HANGS, Fault, free_port, server, train

# A model without batch norm, whose statistics would be those of a process's own part of the batch; 20 steps.
OPTIONS = (
    "--cpu --track none --model mlp --model-arg hidden=32 --mixed-precision no --limit-train 640 --batch-size 64 "
    "--epochs 2 --augment flip,crop=1,cutout=2 --clip-grad 1 --run-name run --output-dir"
).split()


def run(folder: Path, processes: int, *more: str, fault: Fault | None = None) -> None:
    folder.mkdir(exist_ok=True)
    codes, printed = train([*OPTIONS, str(folder), *more], processes, fault or Fault(ledger=folder / "ledger"))
    assert codes == [0] * processes, printed


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The run on 1, 2 and 4 processes."""
    folders = {processes: tmp_path_factory.mktemp(f"on{processes}") for processes in (1, 2, 4)}
    for processes, folder in folders.items():
        run(folder, processes)
    return folders


def samples(folder: Path, processes: int) -> dict[int, list[str]]:
    """The sample ids of every step, those of all processes one after another."""
    steps: dict[int, list[str]] = {}
    for rank in range(processes):
        for line in (folder / f"ledger.{rank}").read_text().splitlines():
            step, *ids = line.split()
            steps.setdefault(int(step), []).extend(ids)
    return steps


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "run/checkpoints/step-20/model.safetensors")


def difference(one: Path, other: Path) -> float:
    ours, theirs = weights(one), weights(other)
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


@pytest.mark.parametrize("processes", [2, 4])
def test_more_processes_see_the_same_samples_and_reach_the_same_weights(runs: dict, processes: int) -> None:
    assert samples(runs[processes], processes) == samples(runs[1], 1)
    assert len(samples(runs[1], 1)) == 20
    assert difference(runs[processes], runs[1]) < 1e-6


def test_the_comparison_would_notice_another_run(runs: dict, tmp_path: Path) -> None:
    run(tmp_path, 1, "--seed", "1")
    assert samples(tmp_path, 1) != samples(runs[1], 1)
    assert difference(tmp_path, runs[1]) > 1e-3


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_resuming_on_another_number_of_processes_changes_nothing(
    runs: dict, tmp_path: Path, before: int, after: int
) -> None:
    first = Fault(kill_after=13, ledger=tmp_path / "ledger")
    train([*OPTIONS, str(tmp_path), "--checkpoint-every", "4"], before, first)
    second = tmp_path / "second"
    second.mkdir()
    more = ("--checkpoint-every", "4", "--resume", "auto")
    run(tmp_path, after, *more, fault=Fault(ledger=second / "ledger"))
    done = {step: ids for step, ids in samples(tmp_path, before).items() if step < 12}
    assert done | samples(second, after) == samples(runs[1], 1)
    assert min(samples(second, after)) == 12
    assert difference(tmp_path, runs[1]) < 1e-6


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_changes_nothing_but_memory(runs: dict, tmp_path: Path, accumulate: int) -> None:
    run(tmp_path, 1, "--accumulate", str(accumulate))
    assert samples(tmp_path, 1) == samples(runs[1], 1)
    assert difference(tmp_path, runs[1]) < 1e-6


def rates(folder: Path, rank: int = 0) -> dict[str, str]:
    return dict(line.split() for line in (folder / f"ledger.lr.{rank}").read_text().splitlines())


def test_the_learning_rate_is_the_same_on_any_number_of_processes_fresh_and_resumed(runs: dict, tmp_path: Path) -> None:
    assert len(rates(runs[1])) == 20
    for processes in (1, 2, 4):
        for rank in range(processes):
            assert rates(runs[processes], rank) == rates(runs[1])
    train([*OPTIONS, str(tmp_path), "--checkpoint-every", "4"], 1, Fault(kill_after=13, ledger=tmp_path / "ledger"))
    run(tmp_path, 2, "--checkpoint-every", "4", "--resume", "auto", fault=Fault(ledger=tmp_path / "ledger"))
    assert rates(tmp_path) == rates(runs[1])


def test_processes_whose_weights_have_drifted_apart_save_nothing(tmp_path: Path) -> None:
    argv = [*OPTIONS, str(tmp_path), "--checkpoint-every", "4"]
    codes, printed = train(argv, 2, Fault(drift_after=(6, 1)))
    assert codes == [1, 1]
    assert "the processes' weights differ" in printed
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-4"]


def _evaluate(rank: int, processes: int, port: int, sizes: Sequence[int], answers: object) -> None:
    import os

    if processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from accelerate import Accelerator

    from data.dataset import Subset, load_images
    from models.factory import create_model
    from tasks.classification.task import Classification
    from tasks.evaluate import evaluate, predict

    accelerator = Accelerator(cpu=True)
    data = load_images("digits")
    task = Classification(
        shape=data.shape, class_names=data.class_names, mean=data.mean, std=data.std, device=accelerator.device
    )
    torch.manual_seed(0)
    model = create_model("mlp", input_shape=task.input_shape, num_classes=10)
    for size in sizes:
        part = Subset(data.test.arrays, data.test.ids[:size])
        metrics = evaluate(model, task, part, accelerator, 16)
        logits, labels = predict(model, task, part, accelerator, 16)
        answers.put((rank, size, metrics["accuracy"] * size, metrics["loss"], logits.numpy(), labels.numpy()))
    answers.close()
    answers.join_thread()


def test_evaluation_counts_every_sample_exactly_once_on_any_number_of_processes() -> None:
    sizes, found = (82, 97, 101), {}
    for processes in (1, 2, 3):
        answers = server.Queue()
        port = free_port()
        workers = [
            server.Process(target=_evaluate, args=(rank, processes, port, sizes, answers)) for rank in range(processes)
        ]
        for worker in workers:
            worker.start()
        for _ in range(processes * len(sizes)):
            rank, size, *answer = answers.get(timeout=HANGS)
            found[processes, rank, size] = answer
        for worker in workers:
            worker.join()
    for (_, _, size), (correct, loss, logits, labels) in found.items():
        expected_correct, expected_loss, expected_logits, expected_labels = found[1, 0, size]
        assert len(labels) == size
        assert round(correct) == round(expected_correct) == (logits.argmax(1) == labels).sum()
        assert abs(correct - round(correct)) < 1e-9
        assert loss == pytest.approx(expected_loss, rel=1e-6)
        assert np.array_equal(labels, expected_labels)
        np.testing.assert_allclose(logits, expected_logits, atol=1e-5)


@pytest.mark.parametrize(
    ("samples", "processes", "accumulate", "batch_size"),
    [
        *((50_000, 1, 1, 128), (50_000, 3, 1, 126), (50_000, 5, 1, 125), (50_000, 6, 1, 126), (50_000, 7, 1, 126)),
        *((50_000, 2, 3, 126), (1_438, 1, 1, 64), (1_438, 3, 1, 63), (1_438, 48, 3, 144), (10, 3, 1, 6), (10, 8, 1, 8)),
        *((12, 3, 4, 12), (2, 1, 1, 2)),
    ],
)
def test_the_default_batch_divides_among_processes_and_micro_batches(
    samples: int, processes: int, accumulate: int, batch_size: int
) -> None:
    assert default_batch_size(samples, processes * accumulate) == batch_size
    args = parse_train(["--accumulate", str(accumulate), "--batch-size", str(batch_size)])
    assert plan_steps(args, samples, processes).steps_per_epoch == samples // batch_size


def test_too_few_images_for_the_processes_are_refused_with_a_remedy_that_works() -> None:
    with pytest.raises(UserError, match=r"2 training images are too few for 3 processes .*: start fewer processes"):
        plan_steps(parse_train(["--batch-size", "3"]), 2, 3)
    with pytest.raises(UserError, match="--batch-size 12 is more than the 10 training images: give 9 or less"):
        plan_steps(parse_train(["--batch-size", "12"]), 10, 3)
    plan_steps(parse_train(["--batch-size", "9"]), 10, 3)
