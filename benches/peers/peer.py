"""What the bench has to know of a program that trains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benches.peers.jobs import Job
from benches.peers.layout import Layout
from benches.peers.process import Reading


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One training that a peer is asked for.

    Attributes:
        job, layout: what to train on.
        script: the peer's own, edited; its package where it needs none.
        epochs: passes over train that a schedule counts on.
        bf16: whether this machine computes faster in it.
        weights: timm's MobileNetV2 in a .safetensors file, for a job that starts from it; None: from scratch.
        folder: of the process, to write into.
    """

    job: Job
    layout: Layout
    script: str
    epochs: int
    bf16: bool
    weights: str | None
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A program that trains image classifiers.

    Attributes:
        name: as --peers, --python and --script have it.
        module: what its interpreter has to be able to import.
        script: which of its files --script has to name; None: it needs none.
        reading: how an epoch's accuracy is told from its log.
        arguments: a setting -> what its interpreter is started with.
        network: a job -> the network as an expression in Python, the names of `module` and of torch in scope.
        edits: a setting -> lines of its script, as a person would edit them who has no option for that: old -> new.
        prepare: a setting -> Python that its interpreter runs before, untimed, in the process's folder.
        environment: of its process.
        terminal: whether it wants one.
        jobs: those that it can do.
        starts_from_weights: whether it takes --weights.
        unfit: why it cannot run on a CPU; None: it can.
        setting: what to know of how it is run, for the report.
    """

    name: str
    module: str
    script: str | None = None
    reading: Reading
    arguments: Callable[[Setting], list[str]]
    network: Callable[[Job], str]
    edits: Callable[[Setting], Mapping[str, str]] = lambda setting: {}
    prepare: Callable[[Setting], str] = lambda setting: ""
    environment: Mapping[str, str] = field(default_factory=dict)
    terminal: bool = False
    jobs: tuple[str, ...] = ("cifar", "photos", "minutes")
    starts_from_weights: bool = False
    unfit: str | None = None
    setting: str = ""
