"""The report of each task: modules with the same functions."""

from types import ModuleType

from tasks.classification import report as classification_report
from tasks.image_to_image import report as image_report

REPORTS: dict[str, ModuleType] = {"classify": classification_report, "transform": image_report}


def parts(task: str) -> list[str]:
    """The files of a whole report; without curves.png, which earlier versions did not draw."""
    return ["test.json", *(name for name in REPORTS[task].PICTURES if name != "curves.png")]
