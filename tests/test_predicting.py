"""Many photos are predicted in order, a few at a time: with the same bits or, faster, the same but for rounding."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import infer
import train
from data.decode import read_image
from engine.checkpoints import best_weights
from tasks.inference import read_ahead
from tests.conftest import write_images

OPTIONS = "--cpu --track none --model small_cnn --mixed-precision no --epochs 1 --batch-size 8".split()


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """(a run, photos to predict, of which the sixth is none)."""
    root = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("cat", "dog")):
        write_images(root / "pets" / name, 20, (16, 16), seed=seed)
    run = train.main([*OPTIONS, "--dataset", str(root / "pets"), "--output-dir", str(root), "--run-name", "run"])
    write_images(root / "photos", 21, (40, 25))
    photos = sorted((root / "photos").iterdir())
    photos[5].write_bytes(b"no image")
    return Path(run["folder"]), photos


def answers(run: Path, folder: Path, output: Path, *options: str) -> list[dict]:
    with pytest.raises(SystemExit) as ended:
        infer.main(["--weights", str(run), "--cpu", "--output", str(output), *options, str(folder)])
    assert ended.value.code == 1
    return json.loads(output.read_text())


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_reads_the_same_in_the_same_order_and_not_far_ahead(
    pets: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    run, photos = pets
    _, task = best_weights.restore(best_weights.load(run / "best.pth"), "best.pth")
    good = [path for path in photos if path != photos[5]]
    expected = np.stack([read_image(path, task.image_shape) for path in good])
    begun: list[Path] = []

    def reading(path: Path, *arguments: object) -> np.ndarray:
        begun.append(path)
        return read_image(path, *arguments)

    monkeypatch.setattr("tasks.inference.read_image", reading)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    unreadable: list[str] = []
    found = []
    for number, batch in enumerate(read_ahead(photos, task, 4, unreadable), 1):
        assert len(begun) <= 4 * (number + 1)
        found.append(batch)
    assert [path for paths, _ in found for path in paths] == good
    assert np.array_equal(np.concatenate([images for _, images in found]), expected)
    assert len(unreadable) == 1 and str(photos[5]) in unreadable[0]


def test_exact_answers_have_the_bits_of_the_model_itself_and_the_others_differ_by_rounding(
    pets: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run, photos = pets
    monkeypatch.setattr("tasks.inference.FEW", 1)
    exact = answers(run, photos[0].parent, tmp_path / "exact.json", "--exact")
    quick = answers(run, photos[0].parent, tmp_path / "quick.json")
    assert capsys.readouterr().err.count(f"cannot read {photos[5]}: ") == 2
    model, task = best_weights.restore(best_weights.load(run / "best.pth"), "best.pth")
    expected = []
    with torch.no_grad():
        for _, images in read_ahead(photos, task, 8, []):
            expected.append(task.probabilities(task.predict(model.eval(), torch.from_numpy(images))))
    assert (
        [row["image"] for row in exact] == [row["image"] for row in quick] == [str(p) for p in photos if p != photos[5]]
    )
    found = [[{p["class"]: p["probability"] for p in row["predictions"]} for row in rows] for rows in (exact, quick)]
    for of_image, exactly, quickly in zip(torch.cat(expected).tolist(), *found, strict=True):
        assert [exactly[name] for name in task.class_names] == of_image
        assert np.allclose([quickly[name] for name in task.class_names], of_image, rtol=0, atol=1e-5)
