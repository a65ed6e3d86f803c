"""Several processes and one GPU: refused in words where NCCL could not, and the same weights by gloo."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.driver import Fault, train

# No batch norm, whose statistics depend on how a batch is divided; no convolution, which may compute in TF32; and no
# Adam, which divides by a gradient's own size and so makes much of a rounding.
OPTIONS = (
    "--track none --limit-train 128 --batch-size 32 --epochs 2 --model mlp --optimizer sgd --mixed-precision no "
    "--run-name run --output-dir"
).split()
LIMIT = 300  # seconds after which a run counts as hanging


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "run" / "checkpoints" / "step-8" / "model.safetensors")


def test_more_processes_than_gpus_are_refused_in_one_line(cuda: torch.device, tmp_path: Path) -> None:
    processes = torch.cuda.device_count() + 1
    codes, printed = train([*OPTIONS, str(tmp_path)], processes, timeout=LIMIT)
    assert codes == [2] * processes
    last = printed.splitlines()[-1]
    assert last.startswith(f"error: {processes} processes cannot share") and "Traceback" not in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("processes", [2])
def test_processes_that_share_a_gpu_by_gloo_reach_the_weights_of_one(
    there: list[str], tmp_path: Path, processes: int
) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    for folder, count in ((one, 1), (several, processes)):
        codes, printed = train([*there, *OPTIONS, str(folder)], count, Fault(gloo=count > 1), timeout=LIMIT)
        assert codes == [0] * count, printed
    for name, expected in weights(one).items():
        torch.testing.assert_close(weights(several)[name], expected, rtol=0, atol=1e-6)
