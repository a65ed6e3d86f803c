"""A run under way: its state, and what happens after each step and each epoch."""

import argparse
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from data.dataset import ImageData
from engine import checkpoint, folder, runtime, summary, tracking, weights
from engine.errors import UserError
from engine.evaluate import evaluate
from engine.files import write_json
from engine.optim import EMA
from engine.progress import Progress
from engine.setup import Plan
from engine.tasks import Classification

# Options that may differ between a run and its resumption, as they do not change what is computed.
FREE_OPTIONS = frozenset(
    {"data_dir", "epochs", "patience", "workers", "cpu", "compile", "recipe", "list_models", "list_datasets"}
    | {"output_dir", "run_name", "track", "log_every", "resume", "checkpoint_every", "keep"}
)


class Run:
    """The state beside weights and optimizer (the step, and figures derived on the way), and where it is written.

    Attributes:
        step: optimizer steps done.
        stopped: the loop should end before its last step.
        totals: sums of the epoch under way, see `Classification.totals`.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        accelerator: Accelerator,
        data: ImageData,
        task: Classification,
        plan: Plan,
    ) -> None:
        self.args, self.accelerator, self.data, self.task, self.plan = args, accelerator, data, task, plan
        self.folder = Path(broadcast_object_list([str(folder.choose_folder(args, data.name))])[0])
        self.step, self.stopped = 0, False
        self.history: list[dict] = []
        self.seconds = 0.0  # of the epoch under way, before `clock`
        self.totals = torch.zeros(3, device=accelerator.device)
        self.trackers: list = []
        self.progress = Progress(accelerator.is_main_process, args.epochs, plan.steps_per_epoch, args.batch_size)

    def begin(self, model: nn.Module, ema: EMA | None, optimizer: torch.optim.Optimizer, facts: dict) -> None:
        """Resume if asked to, then make the folder and start the trackers and the clock."""
        tracking.check_installed(self.args.track)
        folder.check_folder(self.folder, facts["parameters"], self.args.resume is not None, self.args.keep)
        if self.args.resume is not None:
            self._resume(model, ema, optimizer)
        self.accelerator.wait_for_everyone()
        self.progress.say(summary.as_text(facts, self.args.model))
        self.progress.say(f"{data_line(self.data)}\n{runtime.describe(self.accelerator)}\n{self.folder}/\n")
        if self.accelerator.is_main_process:
            folder.describe_run(self.folder, self.args, self.accelerator, facts)
            self.trackers = tracking.start_trackers(self.args.track, self.folder, vars(self.args), self.step)
            if self.history:
                self._write_history()
        self.clock = time.perf_counter()

    def after_step(self, model: nn.Module, ema: EMA | None, optimizer: torch.optim.Optimizer, lr: float) -> None:
        """Count the step; show, log, evaluate and save when it is time."""
        self.step += 1
        self.progress.step(self.step)
        if self.step % self.args.log_every == 0:
            self._log(lr)
        end_of_epoch = self.step % self.plan.steps_per_epoch == 0
        if end_of_epoch:
            self._end_epoch(model, ema, lr)
        every = self.args.checkpoint_every
        if end_of_epoch if every == "epoch" else self.step % every == 0:
            self.save(model, ema, optimizer)

    def _log(self, lr: float) -> None:
        loss, correct, count = self.totals.tolist()
        if count:
            self.progress.figures(loss / count, correct / count, lr)
            tracking.log(self.trackers, {"train/running_loss": loss / count, "lr": lr}, self.step)

    def _end_epoch(self, model: nn.Module, ema: EMA | None, lr: float) -> None:
        loss, correct, count = self.accelerator.reduce(self.totals, "sum").tolist()
        seconds = self.seconds + time.perf_counter() - self.clock
        epoch = self.step // self.plan.steps_per_epoch
        record = {
            "epoch": epoch,
            "step": self.step,
            "train_loss": loss / count,
            "train_accuracy": correct / count,
            "val_loss": None,
            "val_accuracy": None,
            "lr": lr,
            "seconds": seconds,
            "images_per_second": count / seconds,
        }
        due = epoch % self.args.eval_every == 0 or epoch == self.args.epochs
        if due and len(self.data.val):
            shown = self.accelerator.unwrap_model(model, keep_torch_compile=False) if ema is None else ema.model
            share_buffers(shown, self.accelerator)
            record["val_loss"], record["val_accuracy"] = evaluate(
                shown, self.task, self.data.val, self.accelerator, self.args.batch_size
            )
        self.history.append(record)
        best = self.best_epoch() == epoch
        if best:
            self._save_best(model, ema)
        if self.accelerator.is_main_process:
            self._write_history()
            self.progress.epoch(record, best and record["val_accuracy"] is not None)
            names = {"train_loss": "train/loss", "train_accuracy": "train/accuracy", "val_loss": "val/loss"}
            names |= {"val_accuracy": "val/accuracy", "images_per_second": "images_per_second"}
            tracking.log(self.trackers, {names[key]: record[key] for key in names} | {"epoch": epoch}, self.step)
        self.stopped = self._out_of_patience()
        self.totals.zero_()
        self.seconds, self.clock = 0.0, time.perf_counter()

    def best_epoch(self) -> int:
        """The epoch whose weights are kept: the best validation accuracy, then loss; without validation the last."""
        judged = [record for record in self.history if record["val_accuracy"] is not None]
        if not judged:
            return self.history[-1]["epoch"]
        return max(judged, key=lambda record: (record["val_accuracy"], -record["val_loss"]))["epoch"]

    def _out_of_patience(self) -> bool:
        if not self.args.patience:
            return False
        later = [r for r in self.history if r["val_accuracy"] is not None and r["epoch"] > self.best_epoch()]
        return len(later) >= self.args.patience

    def _write_history(self) -> None:
        write_json(self.folder / "train.json", {"best_epoch": self.best_epoch(), "epochs": self.history})

    def _save_best(self, model: nn.Module, ema: EMA | None) -> None:
        shown = self.accelerator.unwrap_model(model, keep_torch_compile=False) if ema is None else ema.model
        if self.accelerator.is_main_process:
            weights.save(self.folder / "best.pth", shown, self.description())

    def description(self) -> dict:
        """What best.pth holds beside the weights."""
        return {
            "model": self.args.model,
            "model_args": self.args.model_arg,
            "shape": list(self.data.shape),
            "class_names": self.data.class_names,
            "mean": self.data.mean,
            "std": self.data.std,
            "options": dict(vars(self.args)),
            "mixed_precision": self.accelerator.mixed_precision,
            "step": self.step,
        }

    def save(self, model: nn.Module, ema: EMA | None, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint of the step reached."""
        totals = self.accelerator.reduce(self.totals, "sum").tolist()
        if self.accelerator.is_main_process:
            unwrapped = self.accelerator.unwrap_model(model, keep_torch_compile=False)
            tensors = {"model": unwrapped.state_dict(), "optimizer": checkpoint.optimizer_tensors(optimizer)}
            if ema is not None:
                tensors["ema"] = ema.model.state_dict()
            scaler = self.accelerator.scaler
            state = {
                "step": self.step,
                "history": self.history,
                "totals": totals,
                "seconds": self.seconds + time.perf_counter() - self.clock,
                "class_names": self.data.class_names,
                "options": vars(self.args),
                "scaler": scaler.state_dict() if scaler is not None else None,
            }
            place = self.folder / "checkpoints" / f"step-{self.step}"
            checkpoint.save(place, tensors, state, self.args.keep)
        self.accelerator.wait_for_everyone()

    def _resume(self, model: nn.Module, ema: EMA | None, optimizer: torch.optim.Optimizer) -> None:
        found = self._find_checkpoint()
        if found is None:
            self.progress.say(f"no checkpoint in {self.folder}: starting afresh")
            return
        place, tensors, state, complaints = found
        for complaint in complaints:
            if self.accelerator.is_main_process:
                print(f"warning: {complaint}; falling back to {place}", file=sys.stderr, flush=True)
        self._check_same_run(place, state)
        unwrapped = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        checkpoint.load_weights(unwrapped, tensors["model"], str(place))
        checkpoint.load_optimizer(optimizer, tensors["optimizer"])
        if ema is not None:
            checkpoint.load_weights(ema.model, tensors["ema"], str(place))
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.history, self.seconds = state["step"], state["history"], state["seconds"]
        if self.accelerator.is_main_process:  # the sum over processes goes on from one of them
            self.totals = torch.tensor(state["totals"], dtype=torch.float64, device=self.accelerator.device)
        self.progress.say(f"resuming {place} at step {self.step} of {self.plan.total_steps}")

    def _find_checkpoint(self) -> tuple | None:
        if self.args.resume == "auto":
            if self.args.run_name is None:
                raise UserError("--resume auto needs the --run-name of the run to go on with")
            return checkpoint.newest_intact(self.folder / "checkpoints")
        place = Path(self.args.resume)
        try:
            return place, *checkpoint.load(place), []
        except checkpoint.Damaged as error:
            raise UserError(f"--resume {self.args.resume}: {error}") from error

    def _check_same_run(self, place: Path, state: dict) -> None:
        if state["class_names"] != self.data.class_names:
            raise UserError(f"{place} was trained on other classes than those of --dataset {self.args.dataset}")
        before, now = state["options"], vars(self.args)
        differing = [
            f"--{name.replace('_', '-')} was {before.get(name)} and is {value}"
            for name, value in now.items()
            if name not in FREE_OPTIONS and before.get(name) != value
        ]
        if differing:
            raise UserError(f"{place} cannot go on with other options: {'; '.join(differing)}; give them as they were")


def data_line(data: ImageData) -> str:
    """What is trained, validated and tested on, in one line."""
    height, width, channels = data.shape
    counts = f"{len(data.train):,} train, {len(data.val):,} validation, {len(data.test):,} test"
    return f"{data.name}: {counts} images of {height}x{width}x{channels}, {len(data.class_names)} classes"


def share_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """Give every process the first one's buffers (batch-norm statistics), which are the ones that get saved."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)
