"""The longer recipes, each a whole process, for as long as there is time."""

from collections.abc import Callable

from tests.gpu.options import Options
from tests.gpu.records import run_recipe

RECIPES = ("cifar10_96", "cifar100_75", "cifar10_97")


def measure(options: Options, record: Callable[[dict], None]) -> None:
    """One seed of each, compiled, as they run for minutes; in a dry run one stands for all."""
    for recipe in RECIPES[-1:] if options.dry_run else RECIPES:
        record(run_recipe(options, recipe, 0, "--model-arg", "width=8", more=[] if options.dry_run else ["--compile"]))
