"""A peer's training as a process of its own, its lines read with the time of each."""

import os
import queue
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

LAST_LINES = 400  # characters of what a process said before it failed


@dataclass(frozen=True)
class Epoch:
    """The line in which a process tells an epoch's accuracy on what it validates on.

    Attributes:
        seconds: from the start of the process to this line.
        accuracy: 0..1.
    """

    seconds: float
    accuracy: float


@dataclass(frozen=True)
class Outcome:
    """What a process came to.

    Attributes:
        epochs: those that it told.
        seconds: from its start to its end, or to where it was ended.
        failed: its last words, where it ended before all was told, or in a given time with an error; else None
    """

    epochs: list[Epoch]
    seconds: float
    failed: str | None = None


@dataclass(frozen=True)
class Reading:
    """How to tell an epoch's accuracy from a line.

    Attributes:
        pattern: a regular expression with the group "accuracy", which matches one line of each epoch.
        percent: whether that is in percent.
    """

    pattern: str
    percent: bool

    def accuracy(self, line: str) -> float | None:
        """0..1, or None: the line does not end an epoch."""
        found = re.search(self.pattern, line)
        return float(found["accuracy"]) / (100 if self.percent else 1) if found else None


def train(
    command: Sequence[str],
    folder: Path,
    environment: dict[str, str],
    reading: Reading,
    epochs: int,
    seconds: float | None = None,
    terminal: bool = False,
) -> Outcome:
    """Run a command until it has told so many epochs, or for so many seconds, then end it and what it started.

    Args:
        folder: in which it runs; what it says goes to log.txt there.
        environment: what is added to this process's.
        reading: of its lines.
        epochs: to wait for.
        seconds: to wait at most; None: as long as it takes.
        terminal: whether it asks for the size of its terminal, and so needs one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stdin = _terminal() if terminal else None
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
        stdin=subprocess.DEVNULL if stdin is None else stdin[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    told: list[Epoch] = []
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        for at, line in _lines(process, start, seconds):
            log.write(f"{at:9.3f}  {line}\n")
            accuracy = reading.accuracy(line)
            if accuracy is not None:
                told.append(Epoch(at, accuracy))
            if len(told) == epochs:
                break
    elapsed = time.monotonic() - start
    in_time = len(told) == epochs or (seconds is not None and (elapsed >= seconds or _is_done(process, told)))
    _end(process)
    for descriptor in stdin or ():
        os.close(descriptor)
    return Outcome(told, elapsed, None if in_time else _last_words(folder / "log.txt"))


def _lines(process: subprocess.Popen, start: float, seconds: float | None) -> Iterator[tuple[float, str]]:
    """(seconds since `start`, line) until the output or the time is over; a line that is rewritten counts each time."""
    chunks: queue.Queue[tuple[float, bytes]] = queue.Queue()
    threading.Thread(target=_read, args=(process, start, chunks), daemon=True).start()
    rest = b""
    while True:
        left = None if seconds is None else start + seconds - time.monotonic()
        try:
            at, chunk = chunks.get(timeout=None if left is None else max(0.0, left))
        except queue.Empty:
            return
        *lines, rest = re.split(rb"[\r\n]+", rest + chunk) if chunk else [rest, b""]
        for line in filter(None, lines):
            yield at, line.decode(errors="replace")
        if not chunk:
            return


def _read(process: subprocess.Popen, start: float, chunks: queue.Queue) -> None:
    while chunk := process.stdout.read1(65536):
        chunks.put((time.monotonic() - start, chunk))
    chunks.put((time.monotonic() - start, b""))


def _terminal() -> tuple[int, int]:
    import pty  # not on Windows, where no peer that needs one was tried

    return pty.openpty()


def _is_done(process: subprocess.Popen, told: Sequence[Epoch]) -> bool:
    """Whether a process that says no more has come to its end before its time: it tells not every epoch."""
    return bool(told) and process.wait(timeout=60) == 0


def _end(process: subprocess.Popen) -> None:
    """End a process and its workers, at once: what they would still write is of no use."""
    if process.poll() is not None:  # its number may be another's by now
        return
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.kill()
    for child in family:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=10)
    process.wait()


def _last_words(log: Path) -> str:
    return " ".join(log.read_text(encoding="utf-8").split())[-LAST_LINES:] or "it said nothing"
