"""A page of its parts: markup, style and script in one file, with the figures that the script shows."""

import base64
import json
from pathlib import Path

from common.files import strict, write_text

HERE = Path(__file__).parent


def write_page(path: Path, content: dict) -> None:
    """Write a page that needs no other file.

    Args:
        path: of the page.
        content: what `page.js` shows, of plain values; numbers that are not finite are left out.

    Raises:
        OSError: no room or no right to write.
    """
    text = (HERE / "page.html").read_text(encoding="utf-8")
    # In a script the text "</script>" would end it, wherever it stands.
    figures = json.dumps(strict(content), ensure_ascii=False).replace("<", "\\u003c")
    parts = {
        "/*STYLE*/": (HERE / "page.css").read_text(encoding="utf-8"),
        "/*SCRIPT*/": (HERE / "page.js").read_text(encoding="utf-8"),
        "/*DATA*/": figures,
    }
    for mark, part in parts.items():
        before, _, after = text.partition(mark)
        text = before + part + after
    write_text(path, text)


def embedded(picture: Path) -> str:
    """A PNG file as an address that holds it, for a page."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
