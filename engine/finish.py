"""After the last step: the best weights meet the test set, and the person is told where to look."""

from engine import report, tracking, weights
from engine.checkpoint import load_weights
from engine.run import Run


def report_run(run: Run) -> None:
    """Test the kept weights, draw the pictures, close the trackers and print what to open next."""
    accelerator, data = run.accelerator, run.data
    run.stop.patient = False  # all is saved: from here a signal ends the process at once
    accelerator.wait_for_everyone()  # the main process may still be writing best.pth
    load_weights(run.plain_model, weights.load(run.folder / "best.pth")["weights"], str(run.folder / "best.pth"))
    test, _ = report.test_report(run.folder, run.plain_model, run.task, data, accelerator, run.args.batch_size)
    if accelerator.is_main_process:
        report.plot_history(run.folder, run.history, run.folder.name)
        tracking.log(run.trackers, {"test/accuracy": test["accuracy"], "test/loss": test["loss"]}, run.step)
        tracking.log_pictures(run.trackers, run.folder, list(report.PICTURES), run.step)
        tracking.finish(run.trackers)
        _say_what_next(run, test)


def _say_what_next(run: Run, test: dict) -> None:
    say, folder = run.progress.say, run.folder
    seconds = sum(record["seconds"] for record in run.history)
    notes = run.data.notes
    say(f"\n{report.headline(test)} (weights of epoch {run.best_epoch()}; trained {seconds:.1f} s)")
    if notes["test_images_also_in_train"]:
        say(f"note: {notes['test_images_also_in_train']} test images are also in train, pixel for pixel")
    if notes["bad_images_left_out"]:
        say(f"note: {notes['bad_images_left_out']} images could not be read and were left out")
    say(f"open     {folder / 'examples.png'}, confusion_matrix.png, accuracy.png, loss.png, test.json")
    if "tensorboard" in run.args.track:
        say(f"curves   tensorboard --logdir {run.args.output_dir}")
    say(f"predict  python infer.py --weights {folder / 'best.pth'} IMAGE_OR_FOLDER ...")
