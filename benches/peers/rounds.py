"""Peers train in turn, round after round; what each came to is kept at once."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benches.peers.jobs import Job
from benches.peers.layout import Layout
from benches.peers.peer import Peer, Setting
from benches.peers.process import Outcome, Reading, train
from common import console
from common.version import VERSION

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
SPARE = 0.96  # of the time that a schedule of epochs is planned for
# Prints the version of a module, and the multiply-accumulates of one image.
ABOUT = """
import sys, torch, {module} as module
from torch.utils.flop_counter import FlopCounterMode
{module} = module
network = ({network}).eval()
with torch.no_grad(), FlopCounterMode(display=False) as counter:
    network(torch.zeros(1, 3, {size}, {size}))
print(module.__version__, counter.get_total_flops() // 2)
"""


@dataclass
class Entry:
    """A peer and what is known of it.

    Attributes:
        interpreter: path.
        script: path; None where the peer needs none.
        missing: why it is not run, one line; None: it is.
        version, macs: of its package, of its network for one image.
        epochs: that its schedule counts on.
        outcomes: one for each round.
    """

    peer: Peer
    interpreter: str
    script: str | None
    missing: str | None = None
    version: str = ""
    macs: int = 0
    epochs: int = 0
    outcomes: list[Outcome] = field(default_factory=list)


def look(peer: Peer, job_name: str, job: Job, interpreter: str | None, script: str | None) -> Entry:
    """Find out whether a peer can be run, and what its network costs."""
    is_ours = peer.name.startswith("sameloop")
    script = str(TRAIN) if is_ours else script
    entry = Entry(peer, interpreter or sys.executable, script, epochs=job.epochs)
    if peer.unfit or job_name not in peer.jobs:
        entry.missing = peer.unfit or f"this bench does not know how it does job {job_name}"
    elif peer.script and script is None:
        entry.missing = f"give --script {peer.name}=PATH, {peer.script}"
    elif script and not Path(script).is_file():
        entry.missing = f"--script {peer.name}={script}: there is no such file"
    else:
        code = ABOUT.format(module=peer.module, network=peer.network(job), size=job.size)
        environment = os.environ | _path(entry)
        where = Path(script).parent if script else None  # -c looks here first, and we have a folder models/ too
        asked = subprocess.run(
            [entry.interpreter, "-c", code], cwd=where, env=environment, capture_output=True, text=True
        )
        if asked.returncode:
            why = (asked.stderr.strip().splitlines() or ["it said nothing"])[-1]
            entry.missing = (
                f"{entry.interpreter}: {why}; give --python {peer.name}=PATH, where {peer.module} is installed"
            )
        else:
            *_, version, macs = asked.stdout.split()
            entry.version, entry.macs = VERSION if is_ours else version, int(macs)
    return entry


def _path(entry: Entry) -> dict[str, str]:
    """The environment in which a copy of the script finds what lies beside it."""
    return {"PYTHONPATH": str(Path(entry.script).parent) if entry.script else ""}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all trainings have in common.

    Attributes:
        job, layout, bf16, weights: see `Setting`.
        folder: below which each has one.
        alone: makes what is held while one trains.
    """

    job: Job
    layout: Layout
    bf16: bool
    weights: str | None
    folder: Path
    alone: Callable[[], AbstractContextManager]


def run_rounds(entries: Sequence[Entry], bench: Bench, rounds: int) -> Iterator[Entry]:
    """Let the peers train in turn, every other round backwards; yields each after it has.

    A peer that fails is left out of further rounds.
    """
    for turn in range(rounds):
        for entry in list(entries) if turn % 2 == 0 else reversed(entries):
            if entry.missing is None:
                console.status(f"round {turn + 1} of {rounds}: {entry.peer.name}")
                run_one(entry, bench)
                yield entry


def plan_epochs(entry: Entry, bench: Bench) -> None:
    """Let a peer train for two epochs, to know how many fit into the job's time."""
    console.status(f"how long is an epoch: {entry.peer.name}")
    entry.epochs = 2
    outcome = _train(entry, replace(bench, job=replace(bench.job, seconds=None)), "plan")
    if outcome.failed is None:
        first, second = (epoch.seconds for epoch in outcome.epochs)
        entry.epochs = max(1, 1 + int((SPARE * bench.job.seconds - first) / (second - first)))
    else:
        entry.missing = f"failed: {outcome.failed}"


def run_one(entry: Entry, bench: Bench) -> None:
    """One training, added to the entry's outcomes."""
    outcome = _train(entry, bench, str(len(entry.outcomes) + 1))
    if outcome.failed is None:
        entry.outcomes.append(outcome)
    else:
        entry.missing = f"failed: {outcome.failed}"


def _train(entry: Entry, bench: Bench, name: str) -> Outcome:
    peer, job = entry.peer, bench.job
    folder = bench.folder / f"{peer.name}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    setting = Setting(
        job=job,
        layout=bench.layout,
        script=entry.script or peer.module,
        epochs=entry.epochs,
        bf16=bench.bf16,
        weights=bench.weights if peer.starts_from_weights else None,
        folder=folder,
    )
    try:
        setting = replace(setting, script=edited(setting, peer.edits(setting)))
    except ValueError as error:
        return Outcome([], 0.0, str(error))
    environment = dict(peer.environment) | _path(entry)
    code = peer.prepare(setting)
    if code:
        subprocess.run([entry.interpreter, "-c", code], cwd=folder, capture_output=True, check=True)
    reading = Reading(peer.reading.pattern.replace("{val}", str(job.val)), peer.reading.percent)
    with bench.alone():
        command = [entry.interpreter, *peer.arguments(setting)]
        return train(command, folder, environment, reading, entry.epochs, job.seconds, peer.terminal)


def edited(setting: Setting, edits: Mapping[str, str]) -> str:
    """The script's path, or that of a copy in the setting's folder with what `edits` maps replaced.

    Raises:
        ValueError: it has no such text.
    """
    if not edits:
        return setting.script
    text = Path(setting.script).read_text(encoding="utf-8")
    for old, new in edits.items():
        if old not in text:
            raise ValueError(f"{setting.script} is another version than this bench knows: it does not have '{old}'")
        text = text.replace(old, new)
    copy = setting.folder / Path(setting.script).name
    copy.write_text(text, encoding="utf-8")
    return str(copy.absolute())
