"""What is exported: a picture in, probabilities out, with all that lies between them in training and in infer.py."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import UserError
from deploy.prepare import Prepare
from engine.checkpoints import best_weights
from tasks.classification.task import Classification

SIDE = (36, 52)  # height and width of the picture that graphs are recorded with: any would do that is not the model's


def load_content(weights: str) -> dict:
    """What best.pth holds, of a classifier.

    Raises:
        UserError: there is no such file, or it is of another task.
    """
    content = best_weights.load(Path(weights))
    learned = content["options"].get("task", "classify")
    if learned != "classify":
        raise UserError(f"--weights {weights}: of --task {learned}, and only classifiers can be exported")
    return content


class Views(nn.Module):
    """The logits of a model for normalised inputs, averaged over the views of the task's `tta`."""

    def __init__(self, model: nn.Module, task: Classification) -> None:
        super().__init__()
        self.model, self._average = model, task.over_views

    def forward(self, inputs: Tensor) -> Tensor:
        """Float32 (B, C, h, w) -> float32 (B, K)."""
        return self._average(self.model, inputs).float()


class Classifier(nn.Module):
    """uint8 RGB pictures (B, H, W, 3) of any size -> probabilities of the classes, float32 (B, K).

    Args:
        network: normalised inputs (B, C, h, w) -> logits (B, K).
        prepare: pictures -> normalised inputs.
        temperature: that logits are divided by.

    Attributes:
        input_shape: (C, h, w) of the network's inputs.
    """

    def __init__(
        self, network: nn.Module, prepare: nn.Module, temperature: float, input_shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.prepare, self.network = prepare, network
        self.temperature, self.input_shape = temperature, input_shape

    def forward(self, pictures: Tensor) -> Tensor:
        """See the class."""
        logits = self.network(self.prepare(pictures))
        return (logits / self.temperature).softmax(1)


def build_classifier(model: nn.Module, task: Classification) -> Classifier:
    """The classifier of a best.pth, ready to be recorded: on the CPU, in float32, in evaluation mode.

    Args:
        model, task: as `engine/checkpoints/best_weights.py` restores them, on the CPU.
    """
    model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # ours goes on in its own
    return (
        Classifier(Views(model, task), Prepare(task), task.temperature, task.input_shape).eval().requires_grad_(False)
    )


def example(pictures: int = 2) -> Tensor:
    """Pictures to record a graph with, uint8; more than one, as a size of 1 would be taken for a constant."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (pictures, *SIDE, 3), dtype=torch.uint8, generator=generator)
