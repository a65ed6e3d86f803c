"""The report of each task: modules with the same functions."""

from types import ModuleType

from engine import report, report_images

REPORTS: dict[str, ModuleType] = {"classify": report, "transform": report_images}


def parts(task: str) -> list[str]:
    """The files of a whole report; without curves.png, which earlier versions did not draw."""
    return ["test.json", *(name for name in REPORTS[task].PICTURES if name != "curves.png")]
