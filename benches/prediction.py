"""How training would scale over nodes of a network: computed from what was measured on one machine.

A model of a ring all-reduce, and of nothing else: it takes all nodes for equally fast and the network for their own.
"""

from typing import NamedTuple

NODES = (2, 4, 8, 16, 32)


class Measured(NamedTuple):
    """What a prediction is made from.

    Attributes:
        step: seconds of a step of one process with the whole batch.
        backward: seconds of its backward pass.
        fixed: seconds of a step that are the same for any batch.
        gradient_bytes: of the model.
        latency: seconds from one node to the next.
    """

    step: float
    backward: float
    fixed: float
    gradient_bytes: int
    latency: float


class Efficiency(NamedTuple):
    """Images/s over those of one process times as many nodes.

    Attributes:
        after: the all-reduce begins when the backward pass has ended.
        overlapped: it is hidden behind the backward pass, as far as that lasts. DistributedDataParallel is in between:
            its last bucket is ready when the backward pass ends.
    """

    after: float
    overlapped: float


def ring_seconds(nodes: int, size: int, bandwidth: float, latency: float) -> float:
    """Seconds of a ring all-reduce: 2 (N - 1) times a node sends an N-th to the next.

    Args:
        nodes: N.
        size: bytes.
        bandwidth: bits/s from a node to the next.
        latency: seconds for each of the 2 (N - 1) times.
    """
    return 2 * (nodes - 1) * (size * 8 / nodes / bandwidth + latency)


def bandwidth_of(nodes: int, size: int, seconds: float, latency: float) -> float:
    """The bits/s with which `ring_seconds` gives what was measured; without what latency takes of it."""
    return 2 * (nodes - 1) * size * 8 / nodes / max(seconds - 2 * (nodes - 1) * latency, 1e-9)


def fixed_seconds(whole: float, part: float, nodes: int) -> float:
    """Of a step with the whole batch (seconds), and one with an N-th of it, what is the same for any batch.

    The line through both measurements at a batch of 0, which noise must take neither below 0 nor above the whole.
    """
    return min(whole, max(0.0, (nodes * part - whole) / (nodes - 1)))


def weak(measured: Measured, nodes: int, bandwidth: float) -> Efficiency:
    """With the whole batch on each node."""
    return _efficiency(measured, nodes, bandwidth, 1.0)


def strong(measured: Measured, nodes: int, bandwidth: float) -> Efficiency:
    """With an N-th of the batch on each node."""
    share = (measured.fixed + (measured.step - measured.fixed) / nodes) / measured.step
    return _efficiency(measured, nodes, bandwidth, share, 1 / nodes)


def _efficiency(measured: Measured, nodes: int, bandwidth: float, share: float, images: float = 1.0) -> Efficiency:
    """Where a step computes for `share` of one process's seconds, for `images` of its images."""
    computing, backward = share * measured.step, share * measured.backward
    exchange = ring_seconds(nodes, measured.gradient_bytes, bandwidth, measured.latency)
    ideal = images * measured.step
    return Efficiency(ideal / (computing + exchange), ideal / (computing + max(0.0, exchange - backward)))
