"""Find faults in a data set by the runs of train.py --folds: python clean.py --help.

python train.py --dataset photos/ --folds 5 --run-name photos
python clean.py runs/photos                                        # writes suspects.csv, suspects.png, duplicates.csv
python train.py --dataset photos/ --exclude runs/photos/suspects.csv
"""

from collections.abc import Sequence

from common import console
from common.errors import exit_on_user_error
from engine.runtime.peers import failing_together
from options.clean import parse_clean


def main(argv: Sequence[str] | None = None) -> None:
    """Run with the options in `argv` (default: the command line's)."""
    with exit_on_user_error(), failing_together():
        args = parse_clean(argv)
        console.status("loading PyTorch")
        from cleaning import report  # imported only now, as it takes seconds: --help is answered at once

        report.clean(args)


if __name__ == "__main__":
    main()
