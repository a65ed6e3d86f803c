"""Which file a process of a run keeps its lines in: log.txt, which those on the main one's machine share."""

import os
import socket
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from common import run_log

NAME = "log.txt"


def open_log(folder: Path, accelerator: Accelerator) -> None:
    """Let each process keep in the run's folder what it says; to be called by all, once the main one has the folder.

    Processes on other machines have files of their own, log.rank-N.txt, as appending to one file from several machines
    loses lines on network drives. Where a machine has not the folder, its lines are on standard error alone.
    """
    rank, number = accelerator.process_index, accelerator.num_processes
    speaker = f"[rank {rank}] " if number > 1 else ""
    host = socket.gethostname()
    mark = f"process {os.getpid()} on {host}, {number} in all"
    if accelerator.is_main_process:
        run_log.add(mark)
        run_log.write_to(folder / NAME, speaker)
    mark, main_host = broadcast_object_list([mark, host])
    if accelerator.is_main_process:
        return
    if not _is_the_same(folder / NAME, mark):
        run_log.give_up()
    else:
        run_log.write_to(folder / (NAME if host == main_host else f"log.rank-{rank}.txt"), speaker)


def _is_the_same(path: Path, mark: str) -> bool:
    """Whether a file here is the one that the main process has just begun to write, not another disk's."""
    return path.is_file() and mark in path.read_text(encoding="utf-8", errors="replace")
