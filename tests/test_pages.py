"""report.html and comparison.html: whole in one file, true to the figures, and alive in a browser."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import compare
import train
from pages.page import write_page
from tests.conftest import write_images

HOSTILE = "</script><b id=broken>&\"'"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
)

needs_a_browser = pytest.mark.skipif(BROWSER is None, reason="NOT TESTED in a browser: there is no chromium")


def rendered(page: Path, script: str = "") -> str:
    """The page as a browser has it when its scripts, and then `script`, have run."""
    told = "<script>addEventListener('error', (event) => document.body.append('ERROR ' + event.message))</script>"
    text = page.read_text().replace("<body>", f"<body>{told}").replace("</body>", f"<script>{script}</script></body>")
    copy = page.with_name("in-a-browser.html")
    copy.write_text(text)
    command = [BROWSER, *QUIET.split(), f"--user-data-dir={page.parent / 'browser'}", "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "ERROR" not in done.stdout.replace("'ERROR '", ""), done.stdout
    return done.stdout


def texts(dom: str) -> str:
    """What can be read on a page."""
    body = dom[dom.index("<main>") : dom.index("</main>")]
    return html.unescape(re.sub(r"<[^>]+>", "\n", body))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on images of classes whose names mean something to a browser."""
    root, runs = tmp_path_factory.mktemp("data") / "pets", tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("cat", "<i>dog", "owl & co")):
        for split, count in (("train", 20), ("test", 12)):
            write_images(root / split / name, count, seed=seed + 10 * (split == "test"))
    options = "--cpu --track none --model mlp --model-arg hidden=8 --epochs 3 --batch-size 8 --calibrate".split()
    for seed, name in enumerate(("first", "second")):
        more = ["--seed", str(seed), "--output-dir", str(runs), "--run-name", name]
        train.main([*options, *more, "--dataset", str(root)])
    return runs


def data_of(page: Path) -> dict:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text(), re.S)[1])


def test_a_runs_page_holds_its_figures_and_needs_no_other_file(runs: Path) -> None:
    folder = runs / "first"
    page, test = folder / "report.html", json.loads((folder / "test.json").read_text())
    text = page.read_text()
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)|url\(([^)]*)\)|@import""", text)
    assert not links, links  # the picture's address is in the data, and holds it
    data = data_of(page)
    assert data["test"]["confusion_matrix"] == test["confusion_matrix"]
    assert data["test"]["per_class"] == test["per_class"] and data["class_names"] == ["<i>dog", "cat", "owl & co"]
    assert data["epochs"] == json.loads((folder / "train.json").read_text())["epochs"]
    assert all(address.startswith("data:image/png;base64,") for address in data["pictures"].values())
    flags = {row[0]: row[1] for row in data["options"]}
    assert flags["--epochs"] == "3" and flags["--model"] == "mlp" and "--momentum" not in flags
    wrong = sum(map(sum, test["confusion_matrix"])) - test["correct"]
    assert len(data["mistakes"]) == wrong == sum(pair[2] for pair in data["confused"])
    confidences = [row[3] for row in data["mistakes"]]
    assert confidences == sorted(confidences, reverse=True)


@needs_a_browser
def test_a_browser_shows_it_and_hovering_and_sorting_work(runs: Path) -> None:
    page = runs / "first" / "report.html"
    data = data_of(page)
    shown = texts(rendered(page))
    for words in ("Confusion matrix", "Worst mistakes", "Calibration", "Classes", "Hardware", "<i>dog", "owl & co"):
        assert words in shown
    assert data["tiles"][0][1] in shown and data["command"] in shown
    point = "document.querySelectorAll('.matrix td')[1].dispatchEvent(new Event('pointerenter'));"
    count, total = data["test"]["confusion_matrix"][0][1], sum(data["test"]["confusion_matrix"][0])
    assert f"{count} of {total} images of <i>dog" in texts(rendered(page, point))
    sort = "[...document.querySelectorAll('th button')].find((b) => b.textContent === 'f1').click();"
    rows = re.findall(r"<tr><td[^>]*>([^<]*)</td>", rendered(page, sort).split("<h2>Classes")[1].split("</table>")[0])
    by_f1 = sorted(data["test"]["per_class"].items(), key=lambda item: -item[1]["f1"])
    assert [html.unescape(row) for row in rows] == [name for name, _ in by_f1]


@needs_a_browser
def test_names_that_mean_something_to_a_browser_are_text(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    content = {"tiles": [[HOSTILE, "1", ""]], "test": {}, "epochs": [], "class_names": [], "confused": []}
    more = {"mistakes": [[HOSTILE, "a", "b", 0.5, 1.0]], "pictures": {}, "options": [], "hardware": [], "command": ""}
    write_page(page, {"title": HOSTILE, "lines": [HOSTILE], **content, **more})
    dom = rendered(page)
    assert texts(dom).count(HOSTILE) == 4 and "<b id=" not in dom


@needs_a_browser
def test_runs_are_compared_on_a_page(runs: Path, tmp_path: Path) -> None:
    compare.main([str(runs), "--output-dir", str(tmp_path)])
    shown = texts(rendered(tmp_path / "comparison.html"))
    for words in ("first", "second", "McNemar's exact test", "Validation accuracy (%)", "Training loss"):
        assert words in shown
