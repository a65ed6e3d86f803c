"""The seconds that benches may take, divided among them: slow and busy machines measure less, not longer."""

import math
from collections.abc import Iterator, Sequence
from time import perf_counter as clock

# Of a budget, when nothing more is built, compiled or warmed up: the rest is for the rounds.
PREPARING = 0.6
LEAST = 1.0  # seconds without which nothing can be said


class Budget:
    """So many seconds from now on. Nothing is interrupted: what has begun ends, and the next part has less."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = clock() + seconds

    def left(self) -> float:
        """Seconds; below 0 where it was overdrawn."""
        return self._end - clock()

    def may_prepare(self) -> bool:
        """Whether there is time to get one more variant ready."""
        return self.seconds == math.inf or self.left() > (1 - PREPARING) * self.seconds

    def divide(self, weights: Sequence[float]) -> Iterator["Budget"]:
        """One after another, for each weight its share of what is left when it is asked for."""
        for index, weight in enumerate(weights):
            yield Budget(max(0.0, self.left()) * weight / sum(weights[index:]))

    def is_spent(self) -> bool:
        """Whether nothing can be measured in what is left."""
        return self.left() < LEAST


UNLIMITED = Budget(math.inf)
