"""Running a model over a part of the data, on one process or many, each sample counted exactly once."""

from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from data.dataset import Part
from data.loader import Batch, eval_loader
from engine.tasks import Classification


def _outputs(
    model: nn.Module,
    predict: Callable[[nn.Module, Tensor], Tensor],
    part: Part,
    accelerator: Accelerator,
    batch_size: int,
) -> Iterator[tuple[Batch, Tensor]]:
    """This process's share of a part, batch by batch, with the model's float32 outputs.

    `predict` makes them from the model and uint8 images.
    """
    pin_memory = accelerator.device.type == "cuda"
    loader = eval_loader(part, batch_size, accelerator.process_index, accelerator.num_processes, pin_memory)
    training = model.training
    model.eval()
    with torch.no_grad():
        for batch in loader:
            batch = batch.to(accelerator.device)
            with accelerator.autocast():
                outputs = predict(model, batch.images)
            yield batch, outputs.float()
    model.train(training)


def evaluate(
    model: nn.Module,
    task: Classification,
    part: Part,
    accelerator: Accelerator,
    batch_size: int,
    between_batches: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """(mean loss, accuracy as a share) over a part, the same on every process.

    Args:
        batch_size: of one process.
        between_batches: called after each batch, on all processes equally often; it may end the run.
    """
    share = -(-len(part) // accelerator.num_processes)
    left = len(part) - accelerator.process_index * share  # what follows this process's own samples are repeats
    sums = task.no_totals()

    def plain(model: nn.Module, images: Tensor) -> Tensor:
        return model(task.inputs(images))

    for batch, outputs in _outputs(model, plain, part, accelerator, batch_size):
        rows = min(max(left, 0), len(batch.labels))
        left -= rows
        if rows:
            sums = sums + task.score(outputs[:rows], batch.labels[:rows])
        between_batches()
    loss, correct, count = accelerator.reduce(sums, "sum").tolist()
    return loss / count, correct / count


def predict(
    model: nn.Module, task: Classification, part: Part, accelerator: Accelerator, batch_size: int
) -> tuple[Tensor, Tensor]:
    """(outputs float32 (N, K), labels int64 (N,)) of a part in its order, on every process, on the CPU."""
    batches = list(_outputs(model, task.predict, part, accelerator, batch_size))
    outputs = accelerator.gather(torch.cat([outputs for _, outputs in batches]))
    labels = accelerator.gather(torch.cat([batch.labels for batch, _ in batches]))
    return outputs[: len(part)].cpu(), labels[: len(part)].cpu()
