"""A test later than its run: the report of infer.py, written beside the weights."""

import torch
from accelerate import Accelerator
from torch import nn

from common.console import say
from common.errors import UserError
from data.dataset import DataSplits
from options.infer import InferOptions
from pages.run_page import write_report
from tasks.base import Task
from tasks.inference import folder_beside


def report_beside(
    args: InferOptions,
    purpose: str,
    title: str,
    data: DataSplits,
    model: nn.Module,
    task: Task,
    accelerator: Accelerator,
    batch_size: int,
) -> None:
    """Test the model on the test part of `data`, with the report of a run, and say what came of it.

    Args:
        purpose: what the folder beside the weights is called by; `title`: of its page.

    Raises:
        UserError: no report can be written there.
    """
    if data.targets is not None:
        task.know(torch.from_numpy(data.targets))
    folder = folder_beside(args.weights, purpose)
    try:
        folder.mkdir(exist_ok=True)
        test, probabilities = task.test_report(folder, model, data, accelerator, batch_size)
    except OSError as error:
        raise UserError(
            f"cannot write the report in {folder}: {error.strerror or error}; copy the weights to a folder with room "
            "that you may write in"
        ) from error
    if not accelerator.is_main_process:
        return
    labels = data.test.arrays.labels[data.test.ids]
    if args.output is not None:  # of classes: there is none for a model that makes images
        task.put_out(data.test.names(), probabilities, args, labels)
    rejected = [] if args.reject is None else [task.reject_in_words(labels, probabilities, args.reject)]
    lines = [task.headline(test), *rejected, *data.remarks]
    say("\n".join(lines))
    write_report(folder, title, lines)
    others = sorted(path.name for path in folder.iterdir() if path.name != "report.html")
    say(f"open     {folder / 'report.html'}, {', '.join(others)}")
