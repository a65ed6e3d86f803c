"""What the peers came to, as a table and as JSON."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benches.peers.jobs import Job
from benches.peers.peer import Peer
from benches.peers.process import Epoch, Outcome
from benches.peers.rounds import Entry
from common.console import percent
from common.errors import UserError
from common.tables import as_markdown

HEADER = ["peer", "images/s", "ours over its", "best accuracy", "seconds to {target}", "first epoch told after", "MACs"]
OF_SPEED = 1, 2  # columns


def images_per_second(job: Job, outcome: Outcome) -> float | None:
    """Images trained over seconds, from the end of the first epoch to the end of the last, validation included."""
    if len(outcome.epochs) < 2:
        return None
    seconds = outcome.epochs[-1].seconds - outcome.epochs[0].seconds
    return job.train * (len(outcome.epochs) - 1) / seconds


def seconds_to(target: float, outcome: Outcome) -> float | None:
    """From the start of the process to the line that tells the accuracy, or None: it never did."""
    return next((epoch.seconds for epoch in outcome.epochs if epoch.accuracy >= target), None)


def best_accuracy(outcome: Outcome) -> float | None:
    """The best that it told, 0..1; None: nothing."""
    return max((epoch.accuracy for epoch in outcome.epochs), default=None)


def _speeds(job: Job, entry: Entry) -> list[float]:
    return [speed for outcome in entry.outcomes if (speed := images_per_second(job, outcome)) is not None]


def _spread(values: Sequence[float], digits: int = 0) -> str:
    if not values:
        return "-"
    median, low, high = (f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{median} ({low} to {high})" if len(values) > 1 else median


def _ours_over(ours: Sequence[float], its: Sequence[float]) -> str:
    return f"{statistics.median(ours) / statistics.median(its):.2f}" if ours and its else "-"


def _accuracies(entry: Entry) -> list[float]:
    return [best for outcome in entry.outcomes if (best := best_accuracy(outcome)) is not None]


def _order(job: Job, entry: Entry) -> list[float]:
    return _speeds(job, entry) if job.seconds is None else _accuracies(entry)


def _row(job: Job, entry: Entry, ours: Sequence[float]) -> list[str]:
    speeds = _speeds(job, entry)
    accuracies = _accuracies(entry)
    reached = [seconds for outcome in entry.outcomes if (seconds := seconds_to(job.target, outcome)) is not None]
    first = [outcome.epochs[0].seconds for outcome in entry.outcomes if outcome.epochs]
    return [
        f"{entry.peer.name} {entry.version}",
        _spread(speeds, digits=0 if min(speeds, default=0.0) >= 20 else 1),
        _ours_over(ours, speeds),
        f"{_spread([100 * accuracy for accuracy in accuracies], 2)} %" if accuracies else "-",
        _spread(reached),
        f"{_spread(first)} s",
        f"{entry.macs / 1e6:,.1f} M",
    ]


def as_text(job: Job, entries: Sequence[Entry]) -> str:
    """A table, the fastest first, or in a given time the most accurate; then who was not run, and how each was set."""
    run = [entry for entry in entries if entry.outcomes]
    ours = next((_speeds(job, entry) for entry in run if entry.peer.name == "sameloop"), [])
    run.sort(key=lambda entry: -statistics.median(_order(job, entry) or [0.0]))
    header = [title.format(target=percent(job.target, 0)) for title in HEADER]
    table = [header, *(_row(job, entry, ours) for entry in run)]
    if job.seconds is not None:
        table = [[cell for column, cell in enumerate(row) if column not in OF_SPEED] for row in table]
    lines = [as_markdown(table), ""]
    lines += [f"{entry.peer.name}: not run: {entry.missing}" for entry in entries if entry.missing]
    return "\n".join([*lines, *(f"{entry.peer.name}: {entry.peer.setting}" for entry in run)])


def as_dict(entries: Sequence[Entry]) -> list[dict]:
    """For peers.json."""
    return [
        {
            "peer": entry.peer.name,
            "version": entry.version,
            "macs": entry.macs,
            "epochs": entry.epochs,
            "missing": entry.missing,
            "outcomes": [asdict(outcome) for outcome in entry.outcomes],
        }
        for entry in entries
    ]


def kept(file: Path, job_name: str, peers: Mapping[str, Peer]) -> dict[str, Entry]:
    """What earlier rounds left in peers.json, by name; nothing where there is no such file.

    Raises:
        UserError: it is of another job.
    """
    if not file.exists():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    if content["job"] != job_name:
        raise UserError(f"--output-dir {file.parent} holds job {content['job']}: give another folder")
    return {row["peer"]: _entry(row, peers[row["peer"]]) for row in content["peers"]}


def _entry(row: dict, peer: Peer) -> Entry:
    outcomes = [
        Outcome([Epoch(**epoch) for epoch in outcome["epochs"]], outcome["seconds"], outcome["failed"])
        for outcome in row["outcomes"]
    ]
    found = {name: row[name] for name in ("missing", "version", "macs", "epochs")}
    return Entry(peer, interpreter="", script=None, outcomes=outcomes, **found)
