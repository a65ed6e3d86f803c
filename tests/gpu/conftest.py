"""The tests of this folder need a GPU: elsewhere they are skipped, or, in a dry run, go through on the CPU."""

import os

import pytest
import torch

from tests.gpu.options import DRY_RUN


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    """What is tested."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator()
    if DRY_RUN not in os.environ:
        pytest.skip("needs a GPU: make test-gpu; its dry run on the CPU is in tests/test_gpu_kit.py")
    return torch.device("cpu")


@pytest.fixture(scope="session")
def there(device: torch.device) -> list[str]:
    """Options of train.py that choose the device."""
    return ["--cpu"] if device.type == "cpu" else []


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """A CUDA GPU, for what a CPU cannot show."""
    if device.type != "cuda":
        pytest.skip("NOT TESTED: nothing that a CPU could show")
    return device
