"""Batches: which samples a step sees is arithmetic on (seed, epoch, step), however they are loaded and shared out."""

import numpy as np
import pytest
import torch

from data import decode_all
from data.arrays import Arrays
from data.dataset import Subset
from data.loader import TrainSampler, epoch_order, eval_loader, train_loader


def sampler(**options) -> TrainSampler:
    defaults = {"ids": np.arange(100, 203), "seed": 5, "start_step": 0, "total_steps": 26, "global_batch_size": 8}
    return TrainSampler(**{**defaults, "accumulate": 1, "rank": 0, "num_processes": 1, **options})


def global_batches(processes: int, accumulate: int, start: int = 0) -> list[list[int]]:
    """The ids of each step from `start`, over all processes and micro-batches, in order."""
    ranks = [
        [draw.ids for draw in sampler(rank=rank, num_processes=processes, accumulate=accumulate, start_step=start)]
        for rank in range(processes)
    ]
    assert all(len(rank) == (26 - start) * accumulate for rank in ranks)
    steps = range(0, (26 - start) * accumulate, accumulate)
    return [np.concatenate([part for rank in ranks for part in rank[i : i + accumulate]]).tolist() for i in steps]


@pytest.mark.parametrize("processes, accumulate", [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (4, 1), (4, 2)])
def test_a_step_sees_the_same_ids_however_it_is_shared_out_and_resumed(processes, accumulate):
    expected = global_batches(1, 1)
    for start in (0, 1, 12, 13, 25):  # an epoch has 12 steps
        assert global_batches(processes, accumulate, start) == expected[start:]


def test_an_epoch_is_a_permutation_of_seed_and_epoch():
    ids = np.arange(100, 203)
    orders = [epoch_order(ids, seed, epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2))]
    assert all(sorted(order) == ids.tolist() for order in orders)
    assert len(set(map(tuple, orders))) == 5
    assert orders[1] == epoch_order(ids, 0, 1).tolist()
    epoch = [number for batch in global_batches(1, 1)[:12] for number in batch]
    assert len(set(epoch)) == 96 and epoch == epoch_order(ids, 5, 0)[:96].tolist()


def part(n: int) -> Subset:
    images = np.random.default_rng(n).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return Subset(Arrays(images, np.arange(n) % 7, *decode_all.describe(images)), np.arange(n))


@pytest.mark.parametrize("n", [82, 97, 101])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_counts_each_sample_once(n, processes):
    shares = [list(eval_loader(part(n), 16, rank, processes, pin_memory=False)) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1  # else a process would wait for ever
    ids = torch.cat([batch.ids for share in shares for batch in share])
    assert ids[:n].tolist() == list(range(n)) and set(ids[n:].tolist()) <= {n - 1}


def test_workers_do_not_change_a_bit():
    samples = part(103)
    draws = []
    for workers in (0, 2, 4):
        loader = train_loader(samples, sampler(ids=samples.ids, total_steps=9), workers, pin_memory=False)
        draws.append([(batch.ids, batch.labels, batch.images) for batch in loader])
    assert [len(batches) for batches in draws] == [9, 9, 9]
    for one, two in [*zip(draws[0], draws[1], strict=True), *zip(draws[0], draws[2], strict=True)]:
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert torch.equal(draws[0][0][2], torch.from_numpy(samples.arrays.images)[draws[0][0][0]])
