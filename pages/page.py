"""A page of its parts: markup, style and script in one file, with the figures that the script shows."""

import base64
import io
import json
from pathlib import Path

from PIL import Image

from common.files import strict, write_text

HERE = Path(__file__).parent
WIDEST = 1400  # pixels of a picture


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
    """A picture as an address that holds it, for a page, at most so many pixels wide."""
    with Image.open(picture) as image:
        image.load()
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.convert("RGB").quantize(256).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
