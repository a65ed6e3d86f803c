"""--repeats shows what as many epochs without it show, the views of an image side by side, and keeps every promise."""

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from common.errors import UserError
from data.augment.batch import Augment, parse
from data.dataset import load_images
from data.loader import Draw, ImageDataset, TrainSampler, balanced_order, epoch_order
from engine.build import plan_steps
from options.train import parse_train
from tests.conftest import write_images
from tests.driver import Fault, train
from tests.test_augment import IMAGE_SPECS, MIX_SPECS, noise
from tests.test_imbalance import seen

IDS = np.arange(100, 244)  # 6 steps of 24 an epoch, and none left over
LABELS = np.repeat(np.arange(3), [100, 40, 4])


def sampler(**options) -> TrainSampler:
    defaults = {"ids": IDS, "seed": 5, "start_step": 0, "total_steps": 36, "global_batch_size": 24, "accumulate": 1}
    return TrainSampler(**{**defaults, "rank": 0, "num_processes": 1, **options})


def shown(draws: list[Draw]) -> list[tuple[int, int]]:
    """(sample, epoch that its augmentation is drawn for) of each image, in order."""
    return [pair for ids, epoch in draws for pair in zip(ids.tolist(), np.broadcast_to(epoch, ids.shape), strict=True)]


@pytest.mark.parametrize("repeats", [2, 3, 4])
def test_the_order_is_a_part_of_a_permutation_each_sample_as_often_as_asked(repeats: int) -> None:
    expected = []
    for epoch in range(6):
        permutation = epoch_order(IDS, 5, epoch // repeats).tolist()
        part = permutation[epoch % repeats * 144 // repeats : (epoch % repeats + 1) * 144 // repeats]
        first = epoch - epoch % repeats
        expected += [(sample, first + repeat) for sample in part for repeat in range(repeats)]
    assert shown([*sampler(repeats=repeats)]) == expected
    for number, batch in enumerate(sampler(repeats=repeats)):
        assert set(np.unique(batch.ids, return_counts=True)[1]) == {repeats}, number


@pytest.mark.parametrize("repeats", [2, 3, 6])
def test_as_many_epochs_show_what_they_show_without_repeats(repeats: int) -> None:
    with_them, without = shown([*sampler(repeats=repeats)]), shown([*sampler()])
    assert sorted(with_them) == sorted(without) and len(set(without)) == 6 * 144
    assert all(isinstance(draw.epoch, int) for draw in sampler())  # which is cheaper to draw for


@pytest.mark.parametrize("mixes", [False, True])
@pytest.mark.parametrize("balance", [1.0, 0.5])
@pytest.mark.parametrize("processes, accumulate", [(1, 2), (2, 1), (4, 1), (8, 3)])
def test_a_step_sees_the_same_however_it_is_shared_out_and_resumed(
    processes: int, accumulate: int, balance: float, mixes: bool
) -> None:
    partners = Augment(parse("mixup"), 5, len(IDS)).partners if mixes else None
    options = {"repeats": 3, "balance": balance, "labels": LABELS, "partners": partners}
    for start in (0, 1, 6, 17):
        ranks = [
            [*sampler(**options, rank=rank, num_processes=processes, accumulate=accumulate, start_step=start)]
            for rank in range(processes)
        ]
        assert all(len(draws) == (36 - start) * accumulate for draws in ranks)
        for step, expected in enumerate(sampler(**options, start_step=start)):
            shares = [draws[step * accumulate + number] for draws in ranks for number in range(accumulate)]
            assert sorted(shown(shares)) == sorted(shown([expected]))


def test_balanced_classes_have_their_shares_over_as_many_epochs() -> None:
    ids = np.concatenate([draw.ids for draw in sampler(repeats=3, balance=0.0, labels=LABELS)])
    for number in range(2):
        order = balanced_order(IDS, LABELS, 0.0, 5, number)
        assert np.array_equal(ids[number * 432 : (number + 1) * 432], np.repeat(order, 3))


@pytest.mark.parametrize("spec", [*IMAGE_SPECS, "jitter", *MIX_SPECS])
def test_samples_with_epochs_of_their_own_are_augmented_as_in_those_epochs(spec: str) -> None:
    augment, indices, epochs = Augment(parse(spec), 1, 5000), torch.arange(1000, 1060), torch.arange(60) % 3 + 6
    images = noise(60, 17, 23, 3)

    def augmented(chosen: Tensor, epoch: int | Tensor) -> list[Tensor]:
        of_these, own = images[chosen], indices[chosen]
        floats, targets = of_these.permute(0, 3, 1, 2).float(), torch.eye(60)[chosen]
        mixed = augment.mix(floats, floats.flip(1), targets, targets.flip(1), own, epoch) if augment.mixes else ()
        whole = augment(of_these, own, epoch)
        return [whole, *mixed, augment.partners(own, epoch), *(augment.jitter(own, epoch) or ())]

    together = augmented(torch.arange(60), epochs)
    for epoch in (6, 7, 8):
        chosen = (epochs == epoch).nonzero().view(-1)
        for all_of_them, alone in zip(together, augmented(chosen, epoch), strict=True):
            assert torch.equal(all_of_them[chosen], alone)


@pytest.mark.parametrize("spec", ["altflip", "flip,crop=3", "augmix", "rrc"])
def test_the_repeats_of_an_image_are_augmented_differently(spec: str) -> None:
    augment, images = Augment(parse(spec), 1, 5000), noise(2, 16, 16, 3)[1:]
    for ids, epochs in sampler(repeats=2):
        pairs = augment(images.expand(24, -1, -1, -1), torch.from_numpy(ids), torch.from_numpy(epochs))
        different = (pairs[::2] != pairs[1::2]).flatten(1).any(1)
        assert different.all() if spec == "altflip" else different.sum() > 6


def test_crops_of_photos_are_those_of_the_epochs_that_they_are_drawn_for(tmp_path: Path, own_cache: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        write_images(tmp_path / "photos" / name, 12, seed=number)
    data = load_images(str(tmp_path / "photos"), image_size=8, decode="live")
    dataset = ImageDataset(data.train.arrays, Augment(parse("rrc"), 5, 10).crop)
    ids, epochs = data.train.ids, np.arange(len(data.train)) % 3
    together = dataset.batch(ids, epochs)
    assert together.cropped and together.drawn_for(9).tolist() == epochs.tolist()
    for epoch in range(3):
        alone = dataset.batch(ids[epochs == epoch], epoch)
        assert torch.equal(together.images[torch.from_numpy(epochs == epoch)], alone.images)
        assert alone.drawn_for(9) == 9


def test_batches_that_repeats_do_not_divide_are_refused_with_a_remedy_that_works() -> None:
    with pytest.raises(UserError, match=r"--batch-size 128 .* 2 processes .* and --repeats 3: give a multiple of 6$"):
        plan_steps(parse_train(["--batch-size", "128", "--repeats", "3"]), 1000, 2)
    assert plan_steps(parse_train(["--batch-size", "126", "--repeats", "3"]), 1000, 2).steps_per_epoch == 7
    with pytest.raises(UserError, match=r"10 training images are too few .* --repeats 11: .*, or repeat less often"):
        plan_steps(parse_train(["--batch-size", "8", "--repeats", "11"]), 10, 1)


OPTIONS = (
    "--cpu --track none --limit-train 32 --epochs 3 --repeats 3 --model mlp --model-arg hidden=8 --mixed-precision no "
    "--augment altflip,crop=1,augmix,mixup --balance sqrt --checkpoint-every 14 --keep 99 --run-name run --output-dir"
).split()


def test_a_run_is_the_same_on_two_processes_and_after_a_kill(tmp_path: Path) -> None:
    def run(name: str, processes: int, *more: str, **fault: int) -> str:
        ledger = tmp_path / name / "ledger"
        # The batch size is left to the run: 6, which 2 processes and 3 repeats divide.
        codes, printed = train([*OPTIONS, str(tmp_path / name), *more], processes, Fault(ledger=ledger, **fault))
        assert codes == ([-signal.SIGKILL] if fault else [0] * processes), printed
        return printed

    def weights(name: str) -> dict[str, Tensor]:
        return load_file(max((tmp_path / name / "run/checkpoints").iterdir(), key=step_of) / "model.safetensors")

    def step_of(folder: Path) -> int:
        return int(folder.name.removeprefix("step-"))

    run("whole", 1)
    run("two", 2)
    assert seen(tmp_path / "two", 2) == seen(tmp_path / "whole", 1)
    run("killed", 1, kill_after=14)
    assert "at step 14 of" in run("killed", 1, "--resume", "auto")
    expected, killed, two = weights("whole"), weights("killed"), weights("two")
    for name, value in expected.items():
        assert torch.equal(killed[name], value)
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-6)
    codes, printed = train([*OPTIONS, str(tmp_path / "killed"), "--resume", "auto", "--repeats", "1"])
    assert codes == [2] and "--repeats was 3 and is 1" in printed
