"""How threads that compute wait for one another."""

import os
import sys

# Pauses, of which libgomp takes up to 300,000 before it lets others have the core. Where one of two threads has to
# wait for a core that is busy elsewhere, the other one then only keeps it from those that compute. Fewer cost a small
# network time alone; see docs/results.md.
SPINS = "2000"


def wait_briefly() -> None:
    """Have them sleep soon; to be called before PyTorch is imported, as OpenMP reads it once.

    What the environment says of it already is kept.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
