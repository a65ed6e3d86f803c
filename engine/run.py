"""A run under way: its parts, and what is done with them once in a while. The loop itself is in train.py."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common import console
from common.files import write_json
from data.dataset import DataSplits
from data.loader import TrainSampler, train_loader
from data.streams.batches import StreamedImages
from data.streams.order import StreamSampler
from data.workers import loader
from engine.build import Plan
from engine.checkpoints import best_weights, resume
from engine.finite_guard import FiniteGuard
from engine.optim.ema import EMA
from engine.optim.schedule import lr_at
from engine.output import run_dir, trackers
from engine.output.ahead import import_ahead
from engine.output.progress import Progress
from engine.runtime import agreement, peers, sharding
from engine.runtime.accelerator import end_processes
from engine.runtime.signals import StopRequest
from engine.train_state import TrainState
from models import param_groups
from options.groups import TrainOptions
from tasks.base import Task
from tasks.evaluate import evaluate
from tasks.metric_sums import SAMPLES, means, over_processes


@dataclass
class Parts:
    """What a run is made of, as `train.py` builds it from options.

    Attributes:
        args: the options, resolved.
        model, ema, optimizer: prepared by Accelerate; `ema` is None where none was asked for.
        cuts_smaller: whether a step for which memory does not suffice is done again in smaller parts.
    """

    args: TrainOptions
    accelerator: Accelerator
    data: DataSplits
    task: Task
    plan: Plan
    model: nn.Module
    ema: EMA | None
    optimizer: torch.optim.Optimizer
    cuts_smaller: bool

    @property
    def unwrapped_model(self) -> nn.Module:
        """The model without what Accelerate and torch.compile wrapped around it."""
        compiled_from = getattr(self.model, "_orig_mod", self.model)
        return compiled_from.module if isinstance(compiled_from, DistributedDataParallel) else compiled_from

    @property
    def ema_model(self) -> nn.Module | None:
        """The moving average, where there is one."""
        return None if self.ema is None else self.ema.model


@dataclass
class Run(Parts):
    """A run at some step of it; made by `engine/start.py`.

    Attributes:
        state: what changes from step to step beside model, average and optimizer.
        folder: where everything is written.
        fingerprints: of the images, to know them again; see `DataSplits`.
        workers: processes that load the training batches.
        log_every: steps between two entries in the trackers.
        imports: what imports, in the last epoch, what the report needs.
        reported: whether the run was resumed after its end and its report, so that nothing is left to do.
        release: lets other runs into the folder; called at the end, or when the run is forgotten.
    """

    state: TrainState
    folder: Path
    fingerprints: dict[str, str]
    sampler: TrainSampler | StreamSampler
    workers: int
    finite_guard: FiniteGuard
    progress: Progress
    stop: StopRequest
    trackers: list
    log_every: int
    imports: Thread | None = None
    reported: bool = False
    release: Callable[[], object] = lambda: None

    @property
    def eval_model(self) -> nn.Module:
        """The weights that are evaluated and kept: the moving average where there is one."""
        return self.unwrapped_model if self.ema is None else self.ema.model

    @property
    def eval_batch_size(self) -> int:
        """Images that a process evaluates at a time: no more for --accumulate than there is room for."""
        return self.args.batch_size // self.args.accumulate

    def batches(self) -> torch.utils.data.DataLoader:
        """This process's micro-batches from here to the end of the run."""
        data, crop = self.data, self.task.augment.crop
        pin_memory = self.accelerator.device.type == "cuda"
        if not self.args.stream:
            return train_loader(data.train, self.sampler, self.workers, pin_memory, crop)
        images = StreamedImages(data.shape, data.ranges, data.geometry, crop, self.args.skip_bad_images)
        return loader(images, self.sampler, self.workers, pin_memory)

    @property
    def done(self) -> bool:
        """Whether the last step is done, or validation has not got better for --patience evaluations."""
        return is_done(self, self.state)

    @property
    def epoch(self) -> int:
        """The epoch of the coming step, from 0."""
        return self.state.step // self.plan.steps_per_epoch

    @property
    def end_of_epoch(self) -> bool:
        """Whether the last step was the last one of an epoch."""
        return self.state.step % self.plan.steps_per_epoch == 0

    @property
    def checkpoint_due(self) -> bool:
        """Whether the last step is one to save."""
        every = self.args.checkpoint_every
        return self.done or (self.end_of_epoch if every == "epoch" else self.state.step % every == 0)

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights are kept; 0 before the first has ended."""
        return self.state.best_epoch(self.task.selection_key)

    @property
    def best_record(self) -> dict:
        """That epoch's entry in train.json; empty before the first has ended."""
        return self.state.history[self.best_epoch - 1] if self.best_epoch else {}

    def lr_at(self, step: int) -> float:
        """The learning rate of a step (from 0)."""
        args = self.args
        return lr_at(step, self.plan.total_steps, peak=args.lr, schedule=args.schedule, warmup=args.warmup)

    def log_train_metrics(self) -> None:
        """Give the trackers the loss so far and the learning rate."""
        metrics = {"loss/running": self.state.mean_metrics()["loss"], "lr": self.lr_at(self.state.step - 1)}
        trackers.log(self.trackers, metrics, self.state.step)

    def validate(self) -> None:
        """End an epoch: evaluate, write and show its metrics, keep its weights if they are the best."""
        self.finite_guard.raise_if_nonfinite()
        seconds = self.state.epoch_seconds()
        sums = over_processes(self.state.metrics, self.accelerator)
        epoch = self.state.step // self.plan.steps_per_epoch
        validated = self._evaluate(epoch)
        record = {
            "epoch": epoch,
            "step": self.state.step,
            **{f"train_{name}": value for name, value in means(sums).items()},
            **{f"val_{name}": validated.get(name) for name in (*self.task.metrics, *self.task.eval_only)},
            "lr": self.lr_at(self.state.step - 1),
            "seconds": seconds,
            "images_per_second": sums[SAMPLES] / seconds,
        }
        self.state.end_epoch(record, self.task.zero_metrics())
        self._publish(record)
        self.begin_epoch()

    def _evaluate(self, epoch: int) -> dict[str, float]:
        """Metrics on the validation part where this epoch is to be evaluated; else none."""
        due = epoch % self.args.eval_every == 0 or epoch == self.args.epochs
        if not due or not len(self.data.val):
            return {}
        metrics = evaluate(
            self.eval_model,
            self.task,
            self.data.val,
            self.accelerator,
            self.eval_batch_size,
            between_batches=self._stop_in_evaluation,
        )
        sharding.divide_again(self.eval_model)
        return metrics

    def _stop_in_evaluation(self) -> None:
        code = self.stop.exit_code_on_all_ranks(self.accelerator)
        if code is not None:
            self.save_and_exit(code)

    def _publish(self, record: dict) -> None:
        """Write and show an epoch's metrics, and keep its weights if they are the best."""
        best = self.best_epoch == record["epoch"]
        if best:
            self.keep_weights()
        if not self.accelerator.is_main_process:
            return
        write_json(self.folder / "train.json", {"best_epoch": self.best_epoch, "epochs": self.state.history})
        self.progress.epoch(record, best and record["val_accuracy"] is not None)
        shown = {f"{key}/{part}": record[f"{part}_{key}"] for key in self.task.metrics for part in ("train", "val")}
        shown |= {"speed/images_per_second": record["images_per_second"], "speed/epoch": record["epoch"]}
        if self.state.step % self.log_every:  # else it is there already
            shown["lr"] = record["lr"]
        trackers.log(self.trackers, shown, self.state.step)

    def begin_epoch(self) -> None:
        """Leave out of training what --freeze names for the coming epoch; import ahead in the last of several."""
        if self.state.step >= self.plan.total_steps:
            return
        if self.args.freeze != "none":
            param_groups.freeze(self.unwrapped_model, self.plan.frozen[self.epoch])
        if self.state.step and self.epoch == self.args.epochs - 1 and self.imports is None:
            self.imports = import_ahead(self.task.report_modules)

    def save(self) -> None:
        """Write a checkpoint of the step reached; to be called by all processes.

        Raises:
            UserError: the disk is full or not writable; older checkpoints stay.
            RuntimeError: the processes' weights differ, so that there is no one state to save.
        """
        console.status(f"saving step {self.state.step}")
        self.finite_guard.raise_if_nonfinite()
        agreement.check_equal_weights(self.unwrapped_model, self.accelerator)
        state = {
            **self.state.state_dict(self.accelerator),
            "class_names": self.data.class_names,
            "data": self.fingerprints["train"],  # all that versions before `fingerprints` knew
            "fingerprints": self.fingerprints,
            "options": vars(self.args),
        }
        if self.args.stream:
            state["places"] = gather_object([self.sampler.place_of(self.state.step)])
        folder = self.folder / "checkpoints" / f"step-{self.state.step}"
        model, ema = self.unwrapped_model, self.ema_model
        resume.save(folder, model, self.optimizer, ema, self.accelerator, state, self.args.keep)
        peers.say_how_to_go_on(self.to_go_on())

    def to_go_on(self) -> str:
        """How to go on from the last checkpoint, with the command."""
        return run_dir.to_go_on(self.folder, self.args.member_of, self.accelerator.num_processes)

    def stop_requested(self) -> int | None:
        """The exit code to stop with, the same on all processes, where any was asked to; else None."""
        if self.accelerator.num_processes > 1 and self.state.step % self.finite_guard.look_every:
            return None  # asking makes all wait for one another
        return self.stop.exit_code_on_all_ranks(self.accelerator)

    def save_and_exit(self, code: int) -> None:
        """Stop here, in a way that can be gone on from."""
        self.save()
        self.progress.close()
        trackers.finish(self.trackers)
        self.progress.say(f"stopped at step {self.state.step} of {self.plan.total_steps}, saved; {self.to_go_on()}")
        end_processes()
        sys.exit(code)

    def keep_weights(self) -> None:
        """Write best.pth from the weights as they are; to be called by all processes."""
        kept = sharding.gather(self.eval_model.state_dict(), self.accelerator)
        if self.accelerator.is_main_process:
            best_weights.save(self.folder / "best.pth", kept, self._description())

    def _description(self) -> dict:
        """What best.pth holds beside the weights."""
        return {
            "model": self.args.model,
            "model_args": self.args.model_arg,
            "shape": list(self.data.shape),
            "class_names": self.data.class_names,
            "fingerprints": self.fingerprints,
            "mean": self.task.mean,
            "std": self.task.std,
            "ranges": self.task.ranges,
            "geometry": self.task.geometry.as_dict(),
            "options": dict(vars(self.args)),
            "mixed_precision": self.accelerator.mixed_precision,
            "output_shape": self.task.model_kwargs.get("output_shape"),
            "step": self.state.step,
            **self.task.learned(self.best_record),
        }


def is_done(parts: Parts, state: TrainState) -> bool:
    """Whether a run in this state has done its last step, or has not got better for --patience evaluations."""
    if state.step >= parts.plan.total_steps:
        return True
    if not parts.args.patience or state.step % parts.plan.steps_per_epoch:
        return False  # asked at every step: the history is gone through only where it can matter
    return state.evaluations_since(state.best_epoch(parts.task.selection_key)) >= parts.args.patience
