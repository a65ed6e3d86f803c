"""How far a run is, beside its weights, moving average and optimizer."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator

from tasks.metric_sums import SAMPLES, MetricSums, means, over_processes


@dataclass
class TrainState:
    """What a checkpoint holds beside tensors, and all of a run that changes from step to step beside them.

    Attributes:
        metrics: sums over this process's samples of the epoch under way, see `Task.batch_metrics`.
        step: optimizer steps done.
        history: an entry for each epoch done, as in train.json.
        seconds: that the epoch under way had taken when `clock` (of time.perf_counter) was started.
        best_from: the first epoch whose weights may be called the best: 1 but where earlier ones were lost.
    """

    metrics: MetricSums
    step: int = 0
    history: list[dict] = field(default_factory=list)
    seconds: float = 0.0
    best_from: int = 1
    clock: float = field(default_factory=time.perf_counter)

    def state_dict(self, accelerator: Accelerator) -> dict:
        """What is to be saved, in plain values; to be called by all processes, over which metrics are summed."""
        return {
            "step": self.step,
            "history": self.history,
            "totals": over_processes(self.metrics, accelerator),
            "seconds": self.epoch_seconds(),
            "best_from": self.best_from,
        }

    def load_state_dict(self, saved: dict, is_main_process: bool) -> None:
        """Take up what `state_dict` saved; the main process alone goes on with the sums over all."""
        self.step, self.history = saved["step"], saved["history"]
        self.seconds, self.best_from = saved["seconds"], saved["best_from"]
        if is_main_process:
            totals = saved["totals"]  # of earlier versions a list without names
            named = (
                totals if isinstance(totals, dict) else dict(zip(("loss", "accuracy", SAMPLES), totals, strict=True))
            )
            self.metrics = {name: torch.full_like(zero, named.get(name, 0.0)) for name, zero in self.metrics.items()}

    def epoch_seconds(self) -> float:
        """How long the epoch under way has taken."""
        return self.seconds + time.perf_counter() - self.clock

    def end_epoch(self, record: dict, zero: MetricSums) -> None:
        """Add an epoch's entry to the history and begin the next one, whose metrics begin at `zero`."""
        self.history.append(record)
        self.metrics, self.seconds, self.clock = zero, 0.0, time.perf_counter()

    def mean_metrics(self) -> dict[str, float]:
        """Metrics over this process's samples of the epoch under way; makes the device wait."""
        values = torch.stack(list(self.metrics.values())).tolist()
        return means(dict(zip(self.metrics, values, strict=True)))

    def best_epoch(self, selection_key: Callable[[dict], tuple[float, ...]]) -> int:
        """The epoch whose weights are kept: the best on validation, or without one the last; 0 before the first."""
        judged = [r for r in self.history if r["val_accuracy"] is not None and r["epoch"] >= self.best_from]
        if not judged:
            return self.history[-1]["epoch"] if self.history else 0
        return max(judged, key=selection_key)["epoch"]

    def evaluations_since(self, epoch: int) -> int:
        """How often later epochs than this one were evaluated."""
        return sum(record["val_accuracy"] is not None and record["epoch"] > epoch for record in self.history)
