"""The report of each task: modules with the same functions."""

from types import ModuleType

from engine import report, report_images

REPORTS: dict[str, ModuleType] = {"classify": report, "transform": report_images}
