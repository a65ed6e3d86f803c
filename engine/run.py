"""A run under way: how far it is, and what happens after each step and each epoch."""

import argparse
import sys
import time
import weakref
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from common import console
from common.files import write_json
from data.dataset import ImageData
from data.loader import check_shared_memory, train_loader
from engine.build import Plan, build_sampler
from engine.checkpoints import best_weights, resume
from engine.finite_guard import FiniteGuard
from engine.optim.ema import EMA
from engine.optim.schedule import lr_at
from engine.output import run_dir, trackers
from engine.output.progress import Progress
from engine.runtime import agreement, hardware, sharding
from engine.runtime.accelerator import describe, end_processes
from engine.runtime.sharing import from_one
from engine.runtime.signals import StopRequest
from models import param_groups, summary
from models.layers import sync_batch_norm
from options.parser import by_epoch, parse_freeze
from tasks.base import Task
from tasks.evaluate import evaluate
from tasks.metric_sums import SAMPLES, add, means, over_processes


class Run:
    """The state beside weights and optimizer (the step, and figures derived on the way), and where it is written.

    Attributes:
        model, ema, optimizer: prepared by Accelerate; `ema` is None where none was asked for.
        folder: where everything is written.
        step: optimizer steps done.
        metrics: sums of the epoch under way, see `batch_metrics` of the task.
        history: an entry for each epoch done, as in train.json.
        fingerprints: of the images, to know them again; see `ImageData`.
        reported: whether the run was resumed after its end and its report, so that nothing is left to do.
        best_from: the first epoch whose weights may be called the best: 1 but where earlier ones were lost.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        accelerator: Accelerator,
        data: ImageData,
        task: Task,
        plan: Plan,
        model: nn.Module,
        ema: EMA | None,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.args, self.accelerator, self.data, self.task, self.plan = args, accelerator, data, task, plan
        self.model, self.ema, self.optimizer = model, ema, optimizer
        self.fingerprints = data.fingerprints()
        self.folder = Path(broadcast_object_list([str(run_dir.choose_folder(args, data.name))])[0])
        self.step = 0
        self.history: list[dict] = []
        self.reported = False
        self.best_from = 1
        self.seconds = 0.0  # of the epoch under way, before `clock`
        self.metrics = task.zero_metrics()
        self.trackers: list = []
        self.progress = Progress(accelerator.is_main_process, args.epochs, plan.steps_per_epoch, args.batch_size)

    @property
    def plain_model(self) -> nn.Module:
        """The model without what Accelerate and torch.compile wrapped around it."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    @property
    def shown_model(self) -> nn.Module:
        """The weights that are evaluated and kept: the moving average where there is one."""
        return self.plain_model if self.ema is None else self.ema.model

    def begin(self, stop: StopRequest, facts: dict) -> None:
        """Resume if asked to, make the folder, start trackers and clock.

        Raises:
            UserError: the folder cannot be written, what is in it does not go with the options, or the shared memory is
                too small.
        """
        args = self.args
        trackers.check_installed(args.track)
        may_exist = bool(args.resume or not args.run_name)
        from_one(lambda: run_dir.check_folder(self.folder, facts["parameters"], may_exist, args.keep))
        checkpoint = None if args.resume is None else resume.resume(self)
        self.sampler = build_sampler(args, self.data, self.task, self.plan, self.accelerator, self.step)
        check_shared_memory(self.data.train, self.sampler, args.workers, hardware.local_processes())
        if self.accelerator.is_main_process:
            self.folder = self.folder if args.run_name else run_dir.make_new(self.folder)
            claim = run_dir.claim(self.folder)
            weakref.finalize(self, run_dir.release, claim)
        self.folder = Path(broadcast_object_list([str(self.folder)])[0])
        self.reported = checkpoint is not None and resume.is_reported(self)
        if checkpoint is not None and not self.reported:
            resume.recover_best(self, checkpoint)
        self.finite_guard = FiniteGuard(self.accelerator, self.optimizer, self.sampler.ids_at)
        self.stop = stop
        self._freeze()
        self.accelerator.wait_for_everyone()
        self.progress.say(summary.as_text(facts, args.model, args.verbose))
        lines = [describe(self.accelerator)]
        if self.accelerator.num_processes > 1:
            lines += filter(None, [sync_batch_norm.in_words(self.plain_model)])
        said = [self.data.in_words(), *self.data.remarks, *lines, f"{self.folder}/\n"]
        self.progress.say("\n".join(said))
        if self.accelerator.is_main_process and not self.reported:
            run_dir.describe_run(self.folder, args, self.accelerator, facts)
            resumed_at = None if args.resume is None else self.step
            self.trackers = trackers.start_trackers(args.track, self.folder, vars(args), resumed_at)
        stop.patient = True
        self.clock = time.perf_counter()
        if self.step == (len(self.history) + 1) * self.plan.steps_per_epoch and not self.reported:
            self._end_epoch()  # it was stopped in the evaluation
        if not self.done:
            self.progress.begin(self.step)

    def batches(self) -> torch.utils.data.DataLoader:
        """This process's micro-batches from here to the end of the run."""
        pin_memory = self.accelerator.device.type == "cuda"
        return train_loader(self.data.train, self.sampler, self.args.workers, pin_memory)

    @property
    def done(self) -> bool:
        """Whether the last step is done, or validation has not got better for --patience evaluations."""
        if self.step >= self.plan.total_steps:
            return True
        if not self.args.patience or self.step % self.plan.steps_per_epoch:
            return False  # asked at every step: the history is gone through only where it can matter
        later = [r for r in self.history if r["val_accuracy"] is not None and r["epoch"] > self.best_epoch()]
        return len(later) >= self.args.patience

    def lr(self, step: int) -> float:
        """The learning rate of a step (from 0)."""
        args = self.args
        return lr_at(step, self.plan.total_steps, peak=args.lr, schedule=args.schedule, warmup=args.warmup)

    @property
    def epoch(self) -> int:
        """The epoch of the coming step, from 0."""
        return self.step // self.plan.steps_per_epoch

    def watch(self, loss: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Take note of a micro-batch, on the device."""
        self.finite_guard.observe(loss)
        self.metrics = add(self.metrics, self.task.batch_metrics(loss, outputs, targets))

    def after_step(self) -> None:
        """Count the step; show, log, evaluate, save and stop when it is time."""
        self.step += 1
        self.progress.step(self.step, self._so_far)
        if self.step % self.args.log_every == 0:
            self._log()
        end_of_epoch = self.step % self.plan.steps_per_epoch == 0
        if end_of_epoch:
            self._end_epoch()
        every = self.args.checkpoint_every
        if self.done or (end_of_epoch if every == "epoch" else self.step % every == 0):
            console.status(f"saving step {self.step}")
            resume.save(self)
        if self.accelerator.num_processes == 1 or self.step % self.finite_guard.look_every == 0:
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        code = self.stop.agreed(self.accelerator)
        if code is None:
            return
        resume.save(self)
        self.progress.close()
        trackers.finish(self.trackers)
        to_go_on = run_dir.to_go_on(self.folder, self.args.member_of, self.accelerator.num_processes)
        self.progress.say(f"stopped at step {self.step} of {self.plan.total_steps}, saved; {to_go_on}")
        end_processes()
        sys.exit(code)

    def _so_far(self) -> dict[str, float]:
        """Metrics of this process's part of the epoch under way; makes the device wait."""
        values = torch.stack(list(self.metrics.values())).tolist()
        return means(dict(zip(self.metrics, values, strict=True)))

    def _log(self) -> None:
        lr = self.lr(self.step - 1)
        trackers.log(self.trackers, {"loss/running": self._so_far()["loss"], "lr": lr}, self.step)

    def _freeze(self) -> None:
        """Leave out of training what --freeze names for the coming epoch."""
        if self.args.freeze != "none" and self.step < self.plan.total_steps:
            param_groups.freeze(
                self.plain_model, by_epoch(parse_freeze(self.args.freeze), self.args.epochs)[self.epoch]
            )

    def _end_epoch(self) -> None:
        self.finite_guard.raise_if_nonfinite()
        seconds = self.seconds + time.perf_counter() - self.clock
        sums = over_processes(self.metrics, self.accelerator)
        epoch = self.step // self.plan.steps_per_epoch
        validated = self._validate(epoch)
        record = {
            "epoch": epoch,
            "step": self.step,
            **{f"train_{name}": value for name, value in means(sums).items()},
            **{f"val_{name}": validated.get(name) for name in self.task.metrics},
            "lr": self.lr(self.step - 1),
            "seconds": seconds,
            "images_per_second": sums[SAMPLES] / seconds,
        }
        self.history.append(record)
        self.metrics = self.task.zero_metrics()
        self.seconds, self.clock = 0.0, time.perf_counter()
        self._publish(record)
        self._freeze()

    def _validate(self, epoch: int) -> dict[str, float]:
        """Metrics on the validation part where this epoch is to be evaluated; else none."""
        due = epoch % self.args.eval_every == 0 or epoch == self.args.epochs
        if not due or not len(self.data.val):
            return {}
        agreement.share_buffers(self.shown_model, self.accelerator)
        return evaluate(
            self.shown_model,
            self.task,
            self.data.val,
            self.accelerator,
            self.args.batch_size,
            between_batches=self._stop_if_asked,
        )

    def _publish(self, record: dict) -> None:
        """Write and show an epoch's figures, and keep its weights if they are the best."""
        best = self.best_epoch() == record["epoch"]
        if best:
            self.keep_weights()
        if not self.accelerator.is_main_process:
            return
        write_json(self.folder / "train.json", {"best_epoch": self.best_epoch(), "epochs": self.history})
        self.progress.epoch(record, best and record["val_accuracy"] is not None)
        shown = {f"{key}/{part}": record[f"{part}_{key}"] for key in self.task.metrics for part in ("train", "val")}
        shown |= {"speed/images_per_second": record["images_per_second"], "speed/epoch": record["epoch"]}
        if self.step % self.args.log_every:  # else it is there already
            shown["lr"] = record["lr"]
        trackers.log(self.trackers, shown, self.step)

    def keep_weights(self) -> None:
        """Write best.pth from the weights as they are; to be called by all processes."""
        kept = sharding.gather(self.shown_model.state_dict(), self.accelerator)
        if self.accelerator.is_main_process:
            best_weights.save(self.folder / "best.pth", kept, self._description())

    def best_epoch(self) -> int:
        """The epoch whose weights are kept: the best on validation, as the task judges; without validation the last."""
        judged = [r for r in self.history if r["val_accuracy"] is not None and r["epoch"] >= self.best_from]
        if not judged:
            return self.history[-1]["epoch"] if self.history else 0
        return max(judged, key=self.task.selection_key)["epoch"]

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
            "options": dict(vars(self.args)),
            "mixed_precision": self.accelerator.mixed_precision,
            "output_shape": self.task.model_kwargs.get("output_shape"),
            "step": self.step,
        }
