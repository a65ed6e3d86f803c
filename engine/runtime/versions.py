"""What is computed with: the versions of packages, and the code itself."""

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "torchvision", "accelerate", "datasets", "timm", "evaluate", "scikit-learn", "numpy", "pillow")


def packages() -> dict[str, str]:
    """name -> version of the installed packages that results depend on."""
    return {name: found for name in PACKAGES if (found := _version(name))}


def code() -> dict[str, str]:
    """file -> the start of its SHA-256, of the project's Python files but its tests."""
    root = Path(__file__).resolve().parents[2]
    rooms = sorted(path.parent for path in root.glob("*/__init__.py") if path.parent.name != "tests")
    files = [*root.glob("*.py"), *(path for room in rooms for path in room.rglob("*.py"))]
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in sorted(files)
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
