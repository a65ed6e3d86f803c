"""One part in a process of its own: python -m tests.gpu.part MODULE JSON_FILE OPTIONS."""

import importlib
import sys
from pathlib import Path

from tests.gpu.options import Options, machine, recorder


def main() -> None:
    """Measure, writing JSON_FILE after each result."""
    module, path, options_text = sys.argv[1:]
    options = Options.from_json(options_text)
    content = {"part": module, "status": "under way", "dry_run": options.dry_run, "machine": machine()}
    importlib.import_module(f"tests.gpu.{module}").measure(options, recorder(Path(path), content))


if __name__ == "__main__":
    main()
