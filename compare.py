"""Compare runs: python compare.py --help.

python compare.py runs/first runs/second
python compare.py runs
python compare.py runs/first/best-on-photos runs/second/best-on-photos   # reports of infer.py --dataset
"""

import os
from collections.abc import Sequence
from pathlib import Path

from common import console
from common.errors import UserError, exit_on_user_error
from common.files import is_folder
from options.compare import parse_compare


def main(argv: Sequence[str] | None = None) -> None:
    """Run with the options in `argv` (default: the command line's)."""
    with exit_on_user_error():
        args = parse_compare(argv)
        console.status("reading runs")
        from experiments import (  # imported only now, as it takes a while: --help is answered at once
            comparison,
            paired,
            results,
        )

        named = [Path(run) for run in args.runs]
        if (
            len(named) > 1
            and all((path / paired.ANSWERS).exists() for path in named)
            and not any((path / "train.json").exists() for path in named)
        ):
            console.say(paired.report(named))
            return
        folders = results.find_runs(named)
        root = Path(os.path.commonpath(folders))
        root = root.parent if root in folders else root
        output = Path(args.output_dir or root)
        if not is_folder(output) or not os.access(output, os.W_OK):
            raise UserError(f"cannot write in {output}: give another --output-dir")
        comparison.report(output, folders, root)


if __name__ == "__main__":
    main()
