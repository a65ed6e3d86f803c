"""Without --sync-bn batch norm's running statistics are the mean over all processes of what each one's images give."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from data.dataset import load_images
from data.loader import ImageDataset
from engine.checkpoints import best_weights
from tests.driver import Fault, train

OPTIONS = (
    "--cpu --track none --model cnn --model-arg width=8 --mixed-precision no --limit-train 96 --no-sync-bn "
    "--checkpoint-every 1 --keep 9 --run-name run --output-dir"
).split()
# One step that moves the weights by nothing, so that the statistics can be computed again.
ONE_STEP = "--batch-size 96 --epochs 1 --lr 1e-30 --val-fraction 0".split()


def run(folder: Path, processes: int, *more: str) -> None:
    folder.mkdir(exist_ok=True)
    codes, printed = train([*OPTIONS, str(folder), *more], processes, Fault(ledger=folder / "ledger"))
    assert codes == [0] * processes, printed


def statistics(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if "running_" in name}


def saved(folder: Path, step: int = 1) -> dict[str, Tensor]:
    return statistics(load_file(folder / f"run/checkpoints/step-{step}/model.safetensors"))


def of_each_process(folder: Path, processes: int) -> list[dict[str, Tensor]]:
    """What each process's images alone give, by PyTorch's batch norm."""
    model, task = best_weights.restore(best_weights.load(folder / "run/best.pth"), "best.pth")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    images = ImageDataset(load_images("digits", val_fraction=0, limit_train=96, seed=0).train.arrays)
    found = []
    for rank in range(processes):
        (line,) = (folder / f"ledger.{rank}").read_text().splitlines()
        batch = images.batch(torch.tensor(list(map(int, line.split()[1:]))).numpy())
        alone = copy.deepcopy(model).train()
        with torch.no_grad():
            alone(task.inputs(batch.images))
        found.append(statistics(alone.state_dict()))
    return found


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_they_are_the_mean_over_processes_of_what_each_would_have(tmp_path: Path, processes: int) -> None:
    run(tmp_path, processes, *ONE_STEP)
    each, mean = of_each_process(tmp_path, processes), saved(tmp_path)
    for name, value in mean.items():
        apart = torch.stack([alone[name] for alone in each])
        torch.testing.assert_close(value, apart.mean(0), rtol=1e-5, atol=1e-6)
        assert (apart.std(0) > 1e-4).any(), "the processes see different images"


@pytest.mark.parametrize("processes", [2, 4])
def test_the_first_layers_mean_is_that_of_one_process_and_its_variance_lacks_what_lies_between_the_parts(
    tmp_path: Path, processes: int
) -> None:
    for number in (1, processes):
        run(tmp_path / str(number), number, *ONE_STEP)
    one, several = saved(tmp_path / "1"), saved(tmp_path / str(processes))
    torch.testing.assert_close(several["stem.1.running_mean"], one["stem.1.running_mean"], rtol=1e-5, atol=1e-6)
    # Running statistics begin at 0 and 1 and take in a tenth of the batch's; the variance is the unbiased one.
    pixels = 96 * 8 * 8
    parts = torch.stack(
        [alone["stem.1.running_mean"] for alone in of_each_process(tmp_path / str(processes), processes)]
    )
    of_all, within = ((found["stem.1.running_var"].double() - 0.9) / 0.1 for found in (one, several))
    between = (parts.double() / 0.1).var(0, correction=0)
    expected = of_all * (pixels - 1) / pixels - within * (pixels // processes - 1) / (pixels // processes)
    torch.testing.assert_close(between, expected, rtol=1e-2, atol=1e-5)


def test_frozen_statistics_stay_bit_for_bit_on_three_processes(tmp_path: Path) -> None:
    """Of which a mean of equal numbers is in general another number, but for rounding."""
    run(tmp_path / "whole", 1, "--batch-size", "48", "--epochs", "1", "--val-fraction", "0")
    best = tmp_path / "whole/run/best.pth"
    frozen = ["--pretrained", str(best), "--freeze", "head", "--batch-size", "48", "--epochs", "2"]
    run(tmp_path / "head", 3, *frozen)
    before, after = statistics(best_weights.load(best)["weights"]), saved(tmp_path / "head", 4)
    assert all(torch.equal(before[name], after[name]) for name in before) and len(before) == 6


def test_evaluation_the_moving_average_and_resuming_go_by_them_bit_for_bit(tmp_path: Path) -> None:
    options = ["--batch-size", "32", "--epochs", "2", "--accumulate", "2", "--ema", "0.5"]
    run(tmp_path / "whole", 2, *options)
    codes, _ = train([*OPTIONS, str(tmp_path / "killed"), *options], 2, Fault(kill_after=2))
    assert codes == [-9, -9]
    run(tmp_path / "killed", 2, *options, "--resume", "auto")
    for name in ("model", "ema"):
        file = f"run/checkpoints/step-6/{name}.safetensors"
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes()
    model, average = (
        statistics(load_file(tmp_path / f"whole/run/checkpoints/step-6/{name}.safetensors"))
        for name in ("model", "ema")
    )
    assert all(torch.equal(model[name], average[name]) for name in model)
