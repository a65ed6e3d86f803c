"""Every recipe is one that train.py takes, says what was measured, and gives way to what is typed."""

import pytest

from engine.options import parse_train
from engine.parsing import RECIPES


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_a_recipe_parses_and_says_what_was_measured(recipe: str) -> None:
    assert parse_train(["--recipe", recipe]).epochs > 1
    assert parse_train(["--recipe", recipe, "--epochs", "1"]).epochs == 1
    head = (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8")
    assert all(fact in head for fact in ("# Measured: ", " % on the test set", "n = ", "torch "))


def test_there_are_recipes() -> None:
    assert list(RECIPES.glob("*.yaml"))
