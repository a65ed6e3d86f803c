"""One part in a process of its own: python -m tests.gpu.part MODULE JSON_FILE OPTIONS DRIVER_PID."""

import importlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

from tests.gpu.options import Options, machine, recorder


def main() -> None:
    """Measure, writing JSON_FILE after each result."""
    module, path, options_text, driver = sys.argv[1:]
    threading.Thread(target=end_with, args=[int(driver)], daemon=True).start()
    options = Options.from_json(options_text)
    content = {"part": module, "status": "under way", "dry_run": options.dry_run, "machine": machine()}
    importlib.import_module(f"tests.gpu.{module}").measure(options, recorder(Path(path), content))


def end_with(driver: int) -> None:
    """Kill this process and all that it started once its parent, `driver`, is gone: nobody would end them later."""
    while os.getppid() == driver:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
