"""What every part of the run on a GPU is told, and how it tells what it measured."""

import dataclasses
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from common.files import write_json
from engine.runtime.hardware import cpu_name

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DRY_RUN = "SAMELOOP_GPU_DRY_RUN"  # in the environment: the tests of tests/gpu run on the CPU too


@dataclass(frozen=True)
class Options:
    """How the parts are run.

    Attributes:
        dry_run: tiny, on the CPU, on data that need no download.
        data_dir: a folder that holds cifar10/ and cifar100/; None where a dry run needs none, or the Hub is in reach.
        airbench: path of airbench94_muon.py, or None.
        scratch: an empty folder for runs and weights.
    """

    dry_run: bool
    data_dir: str | None
    airbench: str | None
    scratch: str

    @classmethod
    def from_json(cls, text: str) -> "Options":
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @property
    def device(self) -> torch.device:
        """Where everything is measured: the CPU in a dry run."""
        return torch.device("cpu") if self.dry_run else torch.accelerator.current_accelerator()


def recorder(path: Path, content: dict) -> Callable[[dict], None]:
    """A function that adds what was measured to `content["measured"]` and writes the whole to `path`, atomically.

    So a part that is cut off keeps what it had measured until then.
    """
    content["measured"] = []

    def record(measured: dict) -> None:
        content["measured"].append(measured)
        write_json(path, content)

    write_json(path, content)
    return record


def machine() -> dict:
    """The accelerator and what drives it: figures mean nothing without the card's name."""
    facts = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        facts |= {"card": card.name, "card_gib": round(card.total_memory / 2**30, 1), "cuda": torch.version.cuda}
    return facts
