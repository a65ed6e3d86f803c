"""What can end a run from outside the program, no memory or a lost process, in one line with what to do about it."""

import os
import re

# How the errors of PyTorch and of the system read, and what they mean. Known by their words, not their classes, as one
# raised in a worker arrives as text, and as the classes of PyTorch take seconds to import.
_KNOWN = (
    (
        r"shared memory|[Bb]us error",
        "no room in shared memory (/dev/shm) for the batches of --workers: give fewer, or start the container with a "
        "larger --shm-size",
    ),
    (
        r"Too many open files|received 0 items of ancdata",
        "too many open files: give fewer --workers, or allow more with 'ulimit -n'",
    ),
    (
        r"DataLoader worker \(pid",
        "one of the --workers was killed or has crashed, which happens most for want of memory: give fewer",
    ),
)
_MEMORY = (
    r"OutOfMemoryError|\bMemoryError|CPUAllocator: (can't allocate|not enough) memory|bad_alloc|STATUS_ALLOC_FAILED"
    r"|could not create a (primitive|memory object)$"  # oneDNN's; one that it does not know it calls a descriptor
)
_LOST = r"\bgloo\b|DistBackendError|DistNetworkError|DistStoreError|NCCL (error|communicator)"

_memory_remedy = "a smaller --batch-size"


def set_memory_remedy(settings: str) -> None:
    """Say from here on that these settings are to be tried where memory does not suffice."""
    global _memory_remedy
    _memory_remedy = settings


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no room in memory, of a GPU or of the machine."""
    return bool(re.search(_MEMORY, _text(error)))


def in_one_line(error: BaseException) -> str | None:
    """What an error means and what to do about it; None for one that needs its traceback."""
    text = _text(error)
    if is_out_of_memory(error):
        return of_this_process(f"out of memory: try {_memory_remedy}")
    line = next((line for pattern, line in _KNOWN if re.search(pattern, text)), None)
    return line and of_this_process(line)


def of_this_process(line: str) -> str:
    """The line, which holds for this process, with its number where there are several."""
    rank = os.environ.get("RANK")
    several = rank and os.environ.get("WORLD_SIZE", "1") not in ("", "1")
    return f"process {rank}: {line}" if several else line


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error says that another process of the run cannot be reached any more."""
    return isinstance(error, RuntimeError) and bool(re.search(_LOST, _text(error)))


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
