"""Train an image classifier, from options to test report: python train.py --help.

The same script runs on a CPU, one GPU, several processes and several machines:

    accelerate launch --config_file accelerate_configs/<hardware>.yaml train.py --dataset cifar10 --epochs 10
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from common import console, openmp, run_log
from common.errors import exit_on_user_error
from engine.runtime.peers import failing_together
from options.groups import TrainOptions

if TYPE_CHECKING:
    from accelerate import Accelerator

    from data.dataset import DataSplits
    from engine.run import Run
    from engine.runtime.signals import StopRequest


def train(args: TrainOptions, began: float) -> dict:
    """One run, and its results. It is a pure function of (options, step): see `engine/run.py` for its state."""
    # Imported only now, as they take seconds: --help and mistyped options are answered at once.
    from engine import final_test, load, micro_batches
    from engine.runtime import agreement, signals
    from engine.runtime.accelerator import start_accelerator

    with signals.StopRequest(args.max_time, began) as stop:
        accelerator, args = start_accelerator(args)
        agreement.check_code(accelerator)
        agreement.check_options(args)
        data = load.load_data(args, accelerator)
        agreement.check_data(data)
        run = begin(args, accelerator, data, stop)
        for _ in micro_batches.all_steps(run, steps):
            pass
        results = final_test.report_run(run)
        run_log.close()  # of several runs the next one has its own
        return results


def begin(args: TrainOptions, accelerator: "Accelerator", data: "DataSplits", stop: "StopRequest") -> "Run":
    """Build a run, or resume one, up to where its next step can be taken."""
    from engine import build, micro_batches, start
    from engine.optim.ema import EMA
    from engine.optim.factory import optimizer_for
    from engine.run import Parts
    from engine.runtime import agreement
    from models import summary

    args = build.resolve(args, data, accelerator.num_processes)
    agreement.check_options(args)  # and what has been filled in
    task = build.build_task(args, data, accelerator.device)
    cuts_smaller = args.accumulate is None and accelerator.num_processes == 1  # several wait for one another in a step
    args = micro_batches.settle(args, task, data, accelerator)
    plan = build.plan_steps(args, len(data.train), accelerator.num_processes)
    sharded = accelerator.is_fsdp2
    model = build.build_model(args, task, data, sharded).to(accelerator.device)
    facts = summary.summarize(model, task.input_shape)
    optimizer = optimizer_for(args, model, sharded)
    ema = EMA(model, args.ema, accelerator) if args.ema else None
    model, optimizer = accelerator.prepare(model, optimizer)
    parts = Parts(args, accelerator, data, task, plan, model, ema, optimizer, cuts_smaller)
    return start.start_run(parts, facts, stop)


def steps(run: "Run") -> Iterator[int]:
    """The loop, from where the run is to its end; hands over after each step, so that bench.py can time it."""
    from engine.micro_batches import taken_back_without_memory
    from engine.optim.schedule import set_lr
    from engine.runtime.accelerator import seed_step
    from engine.runtime.agreement import average_statistics, running_statistics
    from tasks.metric_sums import add

    args, accelerator, task, state = run.args, run.accelerator, run.task, run.state
    model, ema, optimizer = run.model, run.ema, run.optimizer
    batches, statistics = iter(run.batches()), running_statistics(model)

    while not run.done:
        # One optimizer step: a function of (options, step) alone.
        set_lr(optimizer, run.lr_at(state.step))
        seed_step(args.seed, state.step, accelerator.process_index, accelerator.device)
        with taken_back_without_memory(run):  # where --accumulate auto is to do it again in smaller parts
            for micro_step in range(args.accumulate):
                batch = next(batches).to(accelerator.device)  # uint8, this process's share
                inputs, targets = task.training_batch(batch, run.epoch)  # augment, resize, normalize, mix
                last = micro_step == args.accumulate - 1  # gradients are averaged over processes once a step
                with contextlib.nullcontext() if last else accelerator.no_sync(model):
                    with accelerator.autocast():
                        outputs = model(inputs)
                    loss = task.loss(outputs, targets)
                    accelerator.backward(loss / args.accumulate)
                run.finite_guard.observe(loss)
                state.metrics = add(state.metrics, task.batch_metrics(loss, outputs, targets))
        if args.clip_grad:
            accelerator.clip_grad_norm_(model.parameters(), args.clip_grad)
        run.finite_guard.check(state.step)  # ends all processes before a NaN reaches the weights
        optimizer.step()
        optimizer.zero_grad()
        average_statistics(statistics, accelerator.num_processes)  # batch norm's
        if ema is not None:
            ema.update(run.unwrapped_model, state.step + 1)
        state.step += 1
        run.progress.step(state.step, state.mean_metrics)

        # Once in a while.
        if state.step % run.log_every == 0:
            run.log_train_metrics()
        if run.end_of_epoch:
            run.validate()  # logs, keeps best.pth, unfreezes
        if run.checkpoint_due:
            run.save()
        code = run.stop_requested()  # by a signal or --max-time, agreed on by all processes
        if code is not None:
            run.save_and_exit(code)
        yield state.step


def main(argv: Sequence[str] | None = None) -> dict:
    """Run with the options in `argv` (default: the command line's); each call is a run of its own.

    Signals, warnings and logging of the process are afterwards as they were; PyTorch keeps the run's choice of threads,
    determinism and flushed denormals.

    Returns:
        What test.json holds and, as "folder", the run's folder. Of several runs (--seeds, --folds, --sweep) their
        folder, and as "runs" the same for each by its name.

    Raises:
        SystemExit: a mistake in the options (code 2), a run that was stopped (0, 75, 130, 143) or is not finite (1).
    """
    began = time.monotonic()
    openmp.wait_briefly()
    with run_log.keeping(), exit_on_user_error():
        from options.multirun import asked_for, members
        from options.train import parse_train

        args = parse_train(argv)
        runs = members(args, argv) if asked_for(args) else None
        if console.is_first_process():
            console.say(
                f"{args.model} on {args.dataset}, {args.epochs} epoch{'s' * (args.epochs != 1)}: loading PyTorch ..."
            )
        with failing_together():
            if runs is None:
                results = train(args, began)
            else:
                from experiments.multirun import run_all

                results = run_all(args, *runs, train, began)
        from engine.runtime.accelerator import end_processes

        end_processes()
    return results


if __name__ == "__main__":
    main()
