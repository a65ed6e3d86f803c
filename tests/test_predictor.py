"""infer.load: a trained classifier in Python, which says of a picture in any form what infer.py says of its file."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import infer
import train
from common.errors import UserError
from tests.conftest import REPOSITORY, write_images

OPTIONS = "--cpu --track none --model mlp --model-arg hidden=8 --epochs 1 --batch-size 8".split()


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(photos of several sizes, and a run trained on small ones of three classes, letterboxed)."""
    root, runs = tmp_path_factory.mktemp("data") / "pets", tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("cat", "dog", "owl")):
        write_images(root / name, 30, (12, 12), seed=seed)
    options = [*OPTIONS, "--image-size", "10", "--fit", "pad", "--dataset", str(root), "--output-dir", str(runs)]
    train.main([*options, "--run-name", "run"])
    photos = runs.parent / "photos"
    write_images(photos, 5, (30, 17))
    write_images(photos / "inner", 3, (9, 40), mode="L")
    return photos, runs / "run"


def test_a_picture_in_any_form_is_what_infer_says_of_its_file(pets: tuple[Path, Path], tmp_path: Path) -> None:
    photos, run = pets
    files = sorted(photos.rglob("*.png"))
    output = tmp_path / "answers.json"
    with pytest.raises(SystemExit):
        infer.main(["--weights", str(run), "--cpu", "--output", str(output), *map(str, files)])
    expected = {row["image"]: row["predictions"] for row in json.loads(output.read_text())}
    model = infer.load(str(run), device="cpu", batch_size=3)
    assert model.class_names == ["cat", "dog", "owl"]
    for found in model(photos):
        said = [{"class": name, "probability": probability} for name, probability in found.probabilities.items()]
        assert [each["class"] for each in said] == [each["class"] for each in expected[found.image]]
        assert np.allclose([each["probability"] for each in said], [e["probability"] for e in expected[found.image]])
        assert (found.label, found.probability) == (said[0]["class"], said[0]["probability"])
    assert sorted(found.image for found in model(str(photos))) == sorted(map(str, files))
    first = files[0]
    pixels = np.asarray(Image.open(first))
    one = model(first)
    assert one == model(str(first)) and one.image == str(first)
    for form in (first.read_bytes(), Image.open(first), pixels, pixels[None], [Image.open(first)], [pixels, pixels]):
        found = model(form)
        for each in found if isinstance(found, list) else [found]:
            assert each.image is None and each.label == one.label
            assert np.allclose(list(each.probabilities.values()), list(one.probabilities.values()), atol=1e-6)
    assert len(model([pixels] * 7)) == 7 and model([]) == []
    grey = pixels[..., :1]
    assert model(grey).probabilities == model(grey[..., 0]).probabilities


def test_what_is_no_picture_is_refused(pets: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = pets
    model = infer.load(str(run / "best.pth"), device="cpu")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"cannot read .*text\.png: not an image"):
        model(tmp_path / "text.png")
    with pytest.raises(UserError, match=r"cannot read .*missing\.png"):
        model(tmp_path / "missing.png")
    with pytest.raises(TypeError, match="is uint8, 0 to 255, not float64"):
        model(np.zeros((4, 4, 3)))
    with pytest.raises(TypeError, match="not a int"):
        model(3)
    with pytest.raises(UserError, match=r"nothing\.pth"):
        infer.load(str(tmp_path / "nothing.pth"))


def test_it_works_from_outside_the_clone(pets: tuple[Path, Path], tmp_path: Path) -> None:
    photos, run = pets
    program = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from infer import load; print(load({str(run)!r})"
    program += f"({str(photos / '0.png')!r}).label)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == infer.load(str(run), device="cpu")(photos / "0.png").label
