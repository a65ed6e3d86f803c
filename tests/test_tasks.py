"""What a task makes of a batch: jittered and resized inputs in training, averaged views in prediction."""

import numpy as np
import pytest
import torch
from torch import nn

from data.augment.spec import parse_sizes
from data.loader import Batch
from options.values import by_epoch
from tasks.base import resize
from tasks.classification.task import Classification


def task(**options: object) -> Classification:
    names = {"shape": (12, 12, 3), "class_names": ["a", "b"], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
    return Classification(**names, device=torch.device("cpu"), num_samples=8, **options)


def images(count: int = 8) -> torch.Tensor:
    return torch.randint(256, (count, 12, 12, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def batch() -> Batch:
    return Batch(images=images(), labels=torch.arange(8) % 2, ids=torch.arange(8))


def test_training_images_have_the_size_of_their_epoch() -> None:
    sized = task(train_sizes=[6, 9, 12])
    assert [sized.training_batch(batch(), epoch)[0].shape[-1] for epoch in range(3)] == [6, 9, 12]
    assert torch.equal(sized.training_batch(batch(), 2)[0], task().training_batch(batch(), 2)[0])


def test_resizing_is_pillows_to_a_grey_level() -> None:
    from PIL import Image

    smaller = [Image.fromarray(image.numpy()).resize((6, 6), Image.BILINEAR) for image in images()]
    found = resize(images(), (6, 6))
    assert found.dtype == torch.uint8
    assert (found.int() - torch.tensor(np.stack(smaller)).int()).abs().max() <= 1


def test_shares_of_the_epochs_are_cut_where_they_fall() -> None:
    assert by_epoch(parse_sizes("20=0.5,32=0.5"), 5) == [20, 20, 32, 32, 32]
    assert by_epoch(parse_sizes("8=0.25,16=0.25,32=0.5"), 8) == [8, 8, 16, 16, 32, 32, 32, 32]
    assert by_epoch(parse_sizes("8=0.1,16=0.9"), 1) == [16]


@pytest.mark.parametrize("text", ["", "20", "20=x", "20=0.5", "20=0.5,32=0.6", "2=1", "20=1.5,32=-0.5"])
def test_sizes_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--train-sizes"):
        parse_sizes(text)


def test_jitter_is_of_normalised_pixels() -> None:
    jittered = task(augment="jitter=0.3")
    shift, factor = jittered.augment.jitter(torch.arange(8), 4)
    plain, _ = task().training_batch(batch(), 4)
    torch.testing.assert_close(jittered.training_batch(batch(), 4)[0], (plain + shift) * factor)


class Reader(nn.Module):
    """Logits that depend on where each pixel is."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        inputs = inputs.double()  # with digits to spare: views are summed in another order
        weights = torch.linspace(0, 1, inputs[0].numel(), dtype=torch.float64).view_as(inputs[0])
        return torch.stack([(inputs * weights).sum((1, 2, 3)), inputs.square().sum((1, 2, 3))], 1)


def test_views_are_averaged_with_their_weights() -> None:
    x, model = task().inputs(images()), Reader()
    assert torch.equal(task().predict(model, images()), model(x))
    both = (model(x) + model(x.flip(-1))) / 2
    torch.testing.assert_close(task(tta="flip").predict(model, images()), both)
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    views = [padded[..., :12, :12], padded[..., 2:, 2:]]
    shifted = sum((model(view) + model(view.flip(-1))) / 2 for view in views) / 2
    torch.testing.assert_close(task(tta="shift").predict(model, images()), (both + shifted) / 2)
