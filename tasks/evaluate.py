"""Running a model over a part of the data, on one process or many, each sample counted exactly once."""

from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from common.progress import track
from data.dataset import Subset
from data.loader import Batch, eval_loader, eval_rows
from tasks.base import Task
from tasks.metric_sums import MetricSums, add, over_processes


def outputs_of(
    model: nn.Module,
    predict: Callable[[nn.Module, Tensor], Tensor],
    part: Subset,
    accelerator: Accelerator,
    batch_size: int,
    title: str = "testing",
) -> Iterator[tuple[Batch, Tensor]]:
    """This process's share of a part, batch by batch, with the model's float32 outputs.

    `predict` makes them from the model and uint8 images; `title` says on the screen what is under way.
    """
    pin_memory = accelerator.device.type == "cuda"
    loader = eval_loader(part, batch_size, accelerator.process_index, accelerator.num_processes, pin_memory)
    training = model.training
    model.eval()
    with torch.no_grad():
        for batch in track(loader, title, len(loader), accelerator.is_main_process):
            batch = batch.to(accelerator.device)
            with accelerator.autocast():
                outputs = predict(model, batch.images)
            yield batch, outputs.float()
    model.train(training)


def evaluate(
    model: nn.Module,
    task: Task,
    part: Subset,
    accelerator: Accelerator,
    batch_size: int,
    between_batches: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """The task's metrics over a part, the same on every process.

    Args:
        batch_size: of one process.
        between_batches: called after each batch, on all processes equally often; it may end the run.
    """

    def plain(model: nn.Module, images: Tensor) -> Tensor:
        return model(task.inputs(images))

    zero = task.zero_eval_metrics()
    sums = sum_over(
        model, plain, task, task.eval_metrics, zero, part, accelerator, batch_size, between_batches, "validating"
    )
    return task.summarize(sums)


def sum_over(
    model: nn.Module,
    predict: Callable[[nn.Module, Tensor], Tensor],
    task: Task,
    score: Callable[[Tensor, Tensor], MetricSums],
    sums: MetricSums,
    part: Subset,
    accelerator: Accelerator,
    batch_size: int,
    between_batches: Callable[[], None] = lambda: None,
    title: str = "testing",
) -> dict[str, float | list[float]]:
    """`score`'s sums of (outputs, targets) over a part, added to `sums`, each sample once; the same on every process.

    Args:
        predict: outputs of the model for uint8 images.
        batch_size: of one process.
        between_batches: called after each batch, on all processes equally often; it may end the run.
        title: what is under way, for the screen.
    """
    _, left = eval_rows(len(part), accelerator.process_index, accelerator.num_processes)
    for batch, outputs in outputs_of(model, predict, part, accelerator, batch_size, title):
        rows = min(left, len(batch.labels))
        left -= rows
        if rows:
            sums = add(sums, score(outputs[:rows], task.targets(batch)[:rows]))
        between_batches()
    return over_processes(sums, accelerator)


def predict(
    model: nn.Module, task: Task, part: Subset, accelerator: Accelerator, batch_size: int
) -> tuple[Tensor, Tensor]:
    """(outputs float32 (N, K), labels int64 (N,)) of a part in its order, on every process, on the CPU."""
    batches = list(outputs_of(model, task.predict, part, accelerator, batch_size))
    outputs = accelerator.gather(torch.cat([outputs for _, outputs in batches]))
    labels = accelerator.gather(torch.cat([batch.labels for batch, _ in batches]))
    return outputs[: len(part)].cpu(), labels[: len(part)].cpu()
