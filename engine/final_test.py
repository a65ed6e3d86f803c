"""After the last step: the best weights meet the test set, and the person is told where to look."""

import json
import sys
from pathlib import Path
from shlex import quote

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from common import console
from common.errors import UserError
from common.files import strict
from engine.checkpoints import best_weights
from engine.checkpoints.store import load_weights
from engine.output import trackers
from engine.output.run_dir import to_go_on
from engine.run import Run
from engine.runtime.sharing import from_one
from pages.run_page import write_report
from tasks.evaluate import predict


def report_run(run: Run) -> dict:
    """Test the kept weights, draw the pictures, close the trackers and print what to open next.

    A run that had its report before it was resumed keeps it.

    Returns:
        What test.json holds and, as "folder", the run's folder.
    """
    try:
        return _report_run(run)
    finally:
        run.release()


def _report_run(run: Run) -> dict:
    if run.reported:
        test = reported(run.folder)
        _say_reported(run, test)
        return test
    accelerator, data, task = run.accelerator, run.data, run.task
    run.stop.patient = False  # all is saved: from here a signal ends the process at once
    how = to_go_on(run.folder, run.args.member_of, accelerator.num_processes)
    run.stop.words = f"in the test report; training is done and saved, the report will be made again; {how}"
    if run.imports is not None:
        run.imports.join()
    accelerator.wait_for_everyone()  # the main process may still be writing best.pth
    best = run.folder / "best.pth"
    content = from_one(lambda: best_weights.load(best))
    load_weights(run.unwrapped_model, content["weights"], str(best))
    task.use(task.learned(run.best_record))
    if run.args.calibrate:
        _calibrate(run, content)
    how_to_test = run.unwrapped_model, data, accelerator, run.eval_batch_size
    test, probabilities = task.test_report(run.folder, *how_to_test)
    answers = None if data.unlabelled is None else task.predict_unlabelled(run.folder, *how_to_test)
    if accelerator.is_main_process:
        task.plot_history(run.folder, run.state.history, run.folder.name, test)
        write_report(run.folder, run.folder.name, [task.headline(test), *data.remarks])
        console.status("giving the report to the trackers")
        _track_end(run, test, probabilities)
        _say_what_next(run, test, answers)
    if run.stop.exit_code is not None:
        sys.exit(run.stop.exit_code)  # what was under way when the signal came had caught the exit, as callbacks do
    return {**strict(test), "folder": str(run.folder)}


def _calibrate(run: Run, content: dict) -> None:
    """Learn from the validation part how far confidence can be believed, and have best.pth know it.

    Raises:
        UserError: there is no validation part.
    """
    data, accelerator = run.data, run.accelerator
    if not len(data.val):
        raise UserError(f"--calibrate needs a validation part, which {data.name} has not: leave it out")
    logits, labels = predict(run.unwrapped_model, run.task, data.val, accelerator, run.eval_batch_size)
    found = from_one(lambda: run.task.calibrated(logits, labels))
    run.task.use(found)
    if accelerator.is_main_process:
        weights = content.pop("weights")
        best_weights.save(run.folder / "best.pth", weights, {**content, **found})


def reported(folder: Path) -> dict:
    """What `report_run` returned when it reported on a run; called by all processes, read by the first."""
    test = None
    if PartialState().is_main_process:
        test = {**json.loads((folder / "test.json").read_text(encoding="utf-8")), "folder": str(folder)}
    return broadcast_object_list([test])[0]


def _say_reported(run: Run, test: dict) -> None:
    say, args = run.progress.say, run.args
    say(f"finished before: nothing is left to train\n{run.task.headline(test)}")
    say(f"open     {run.folder / ('report.html' if (run.folder / 'report.html').exists() else 'examples.png')}")
    more = "a larger --patience" if run.state.step < run.plan.total_steps else f"--epochs above {args.epochs}"
    say(f"to train on, add {more}")


def _track_end(run: Run, test: dict, probabilities: np.ndarray | None) -> None:
    """Show the test, the pictures and the model in the trackers, with what it takes to compare runs, and close them."""
    if not run.trackers:
        return
    best = run.best_record
    seconds = sum(record["seconds"] for record in run.state.history)
    results = {
        **{f"test/{name}": value for name, value in run.task.final_metrics(test).items()},
        "total/best_val_accuracy": best["val_accuracy"],
        "total/trained_seconds": seconds,
        "total/images_per_second": sum(r["seconds"] * r["images_per_second"] for r in run.state.history) / seconds,
        "total/parameters": sum(parameter.numel() for parameter in run.unwrapped_model.parameters()),
    }
    options = {**vars(run.args), "mixed_precision": run.accelerator.mixed_precision}  # not "auto"
    trackers.log_end(run.trackers, options, results, run.state.step)
    pictures = run.task.thumbnails(run.folder, run.data, test, probabilities)
    trackers.log_pictures(
        run.trackers, {f"pictures/{name}": pixels for name, pixels in pictures.items()}, run.state.step
    )
    if not run.accelerator.is_fsdp2:  # whose parts only all processes together can run
        trackers.log_graph(run.trackers, run.unwrapped_model, run.task.input_shape)
    trackers.finish(run.trackers)


def _say_what_next(run: Run, test: dict, answers: str | None) -> None:
    say, folder = run.progress.say, run.folder
    seconds = sum(record["seconds"] for record in run.state.history)
    say(f"\n{console.paint(run.task.headline(test), 'bold')}")
    say(f"weights  of epoch {run.best_epoch}; trained for {console.duration(seconds)}")
    for remark in run.data.remarks:
        say(remark)
    if answers is not None:
        say(answers)
    if run.args.smoke_test:
        say("smoke test: all of it works, from the images to the pictures; results of so few images mean nothing")
    others = sorted(set(run.task.report_files) - {"examples.png"})
    say(f"open     {folder / 'report.html'}, examples.png, {', '.join(others)}, test.json")
    if "tensorboard" in run.args.track:
        say(f"curves   tensorboard --logdir {quote(run.args.output_dir)}")
    say(f"predict  python infer.py --weights {quote(str(folder / 'best.pth'))} IMAGE_OR_FOLDER ...")
