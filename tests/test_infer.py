"""infer.py repeats what a run found, reads any image, and says in one line what is wrong."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import train
from engine.checkpoints import best_weights
from tests.conftest import REPOSITORY, changed, fresh_process, predict, refusal
from tests.driver import HANGS


def picture(mode="RGB", size=(30, 20)):
    """A picture of random pixels, the same each time."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_without_images_it_repeats_the_runs_own_test(capsys, run_folder, best, tmp_path):
    copied = shutil.copy(best, tmp_path)
    output = tmp_path / "test.json"
    code, out, err = predict(capsys, "--weights", copied, "--output", output)
    assert (code, err) == (0, "")
    report = json.loads((run_folder / "test.json").read_text())
    again = json.loads((tmp_path / "best-test" / "test.json").read_text())
    for speed in ("seconds", "images_per_second"):
        assert report.pop(speed) > 0 and again.pop(speed) > 0
    assert again == report
    assert f"test accuracy {100 * report['accuracy']:.2f} % on 359 images" in out
    assert {path.name for path in (tmp_path / "best-test").iterdir()} == {
        *("report.html", "test.json", "test.csv", "confusion_matrix.png", "reliability.png", "examples.png")
    }

    rows = json.loads(output.read_text())
    labels = load_digits().target
    ids = [int(row["image"].removeprefix("digits[").removesuffix("]")) for row in rows]
    right = sum(row["predictions"][0]["class"] == str(labels[i]) for row, i in zip(rows, ids, strict=True))
    assert (len(rows), right) == (359, report["correct"])
    assert [row["true"] for row in rows] == [str(labels[i]) for i in ids]


def test_each_row_of_a_test_split_says_which_file_it_is_and_its_true_class(capsys, tmp_path, tree, own_cache):
    pets = tree("cat", "dog", count=20)
    options = f"--dataset {pets} --cpu --track none --model mlp --model-arg hidden=8 --epochs 1 --output-dir {tmp_path}"
    fresh_process()
    train.main([*options.split(), "--run-name", "run"])
    output = tmp_path / "answers.csv"
    predict(capsys, "--weights", tmp_path / "run" / "best.pth", "--output", output, "--topk", 1)
    with output.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "true", "class_1", "probability_1"]
    assert len({row[0] for row in rows}) == len(rows) == 8  # a fifth of each class
    assert all(Path(name).is_file() and Path(name).parent == pets / true for name, true, *_ in rows)


def test_weights_older_than_the_options_for_columns_are_tested_all_the_same(capsys, run_folder, best, tmp_path):
    content = best_weights.load(best)
    options = {name: value for name, value in content["options"].items() if not name.endswith("_column")}
    code, out, err = predict(capsys, "--weights", changed(best, tmp_path / "old.pth", options=options))
    accuracy = json.loads((run_folder / "test.json").read_text())["accuracy"]
    assert (code, err) == (0, "") and f"test accuracy {100 * accuracy:.2f} % on " in out


def test_files_are_predicted_as_the_test_split_is(capsys, best, tmp_path):
    """Ten digits as PNG files in folders with spaces in their names: the same classes and probabilities."""
    output = tmp_path / "predictions.json"
    alone = shutil.copy(best, tmp_path)  # nothing but this file is needed
    # In bf16 the size of a batch shows in the last digits.
    arguments = ("--weights", alone, "--output", output, "--topk", 10, "--mixed-precision", "no")
    predict(capsys, *arguments)
    expected = json.loads(output.read_text())[:10]
    scans = load_digits().images
    for number, row in enumerate(expected):
        index = int(row["image"].removeprefix("digits[").removesuffix("]"))
        folder = tmp_path / "my photos" / f"part {number % 3} é"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (scans[index] * (255 / 16)).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"no {number}.png")
    code, _, err = predict(capsys, *arguments, "--batch-size", 4, tmp_path / "my photos")
    assert (code, err) == (0, "")
    found = {int(Path(row["image"]).stem.split()[1]): row["predictions"] for row in json.loads(output.read_text())}
    for number, row in enumerate(expected):
        assert [p["class"] for p in found[number]] == [p["class"] for p in row["predictions"]]
        wanted = [p["probability"] for p in row["predictions"]]
        assert [p["probability"] for p in found[number]] == pytest.approx(wanted, abs=1e-5)


def test_any_mode_and_size_is_read(capsys, best, tmp_path):
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1"):
        picture(mode).save(tmp_path / f"{mode}.png")
    picture("CMYK").save(tmp_path / "cmyk.jpg")
    picture("I").save(tmp_path / "I.tiff")
    Image.fromarray(np.asarray(picture("F")) / 255).save(tmp_path / "F.tiff")  # floats that lie in 0..1
    picture("P").save(tmp_path / "see-through.png", transparency=bytes(range(256)))
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100).save(tmp_path / "16bit.png")
    for size in ((300, 200), (1, 1), (500, 2)):
        picture(size=size).save(tmp_path / f"{size}.png")
    code, out, err = predict(capsys, "--weights", best, tmp_path)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 14


def test_a_photo_taken_sideways_is_set_upright(capsys, best, tmp_path):
    upright = picture("L", (24, 16))
    upright.save(tmp_path / "a.png")
    sideways = Image.Exif()
    sideways[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png", exif=sideways)
    _, out, _ = predict(capsys, "--weights", best, tmp_path)
    first, second = out.splitlines()
    assert first.split("a.png")[1] == second.split("b.png")[1]


def test_what_cannot_be_read_is_listed_and_the_rest_predicted(capsys, best, tmp_path):
    picture().save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    (tmp_path / "folder.png").mkdir()
    picture().save(tmp_path / "folder.png" / "inside.png")
    absent = tmp_path / "absent.png"
    code, out, err = predict(capsys, "--weights", best, tmp_path, absent, "--batch-size", 3)
    assert code == 1
    assert [line.split(":")[0] for line in out.splitlines()] == [
        str(tmp_path / "folder.png" / "inside.png"),
        str(tmp_path / "good.png"),
    ]
    *complaints, count = err.splitlines()
    assert count == "5 of 7 images could not be read"
    bad = ("bomb.png", "cut.png", "empty.jpg", "text.png", "absent.png")
    for name, complaint in zip(bad, complaints, strict=True):
        assert complaint.startswith(f"cannot read {tmp_path / name}: ")


def test_names_too_long_for_any_disk_are_named(capsys, best, tmp_path):
    picture().save(tmp_path / "good.png")
    long = "n" * 300
    code, out, err = predict(capsys, "--weights", best, tmp_path / "good.png", tmp_path / f"{long}.png")
    assert code == 1 and out.startswith(f"{tmp_path / 'good.png'}: ") and out.count("\n") == 1
    assert f"cannot read {tmp_path / long}.png: " in err and err.endswith("1 of 2 images could not be read\n")
    assert "too long" in refusal(capsys, "--weights", best, tmp_path / "good.png", "--output", f"{long}.csv")
    assert "too long" in refusal(capsys, "--weights", f"{long}/best.pth", tmp_path / "good.png")


def test_nothing_readable_is_still_an_answer(capsys, best, tmp_path):
    output = tmp_path / "none.csv"
    code, out, _ = predict(capsys, "--weights", best, tmp_path / "absent.png", "--output", output)
    assert (code, out, output.read_text().splitlines()) == (1, f"written  {output}: 0 images\n", ["image"])


def test_csv_and_json_agree(capsys, best, tmp_path):
    names = ("plain.png", "a, b.png", 'quoted "x".png', "日本 🎉.png", "two\nlines.png")
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in names:
        picture(size=(8 + len(name), 9)).save(photos / name)
    for output in ("out.csv", "out.json"):
        code, out, err = predict(capsys, "--weights", best, photos, "--output", tmp_path / output, "--topk", 3)
        assert (code, out, err) == (0, f"written  {tmp_path / output}: 5 images\n", "")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        from_csv = list(csv.DictReader(file))
    from_json = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert {row["image"] for row in from_json} == {str(photos / name) for name in names}
    for flat, row in zip(from_csv, from_json, strict=True):
        assert flat["image"] == row["image"]
        for k, prediction in enumerate(row["predictions"], 1):
            assert flat[f"class_{k}"] == prediction["class"]
            assert float(flat[f"probability_{k}"]) == prediction["probability"]
        likely = ", ".join(f"{p['class']} {100 * p['probability']:.1f} %" for p in row["predictions"])
        assert f"{row['image']}: {likely}\n" in predict(capsys, "--weights", best, photos, "--topk", 3)[1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has file names that are not text")
def test_file_names_that_are_not_text(capsys, best, tmp_path):
    image = tmp_path / os.fsdecode(b"latin\xe9.png")
    picture().save(image)
    code, out, _ = predict(capsys, "--weights", best, image)
    assert code == 0 and r"latin\udce9.png: " in out
    output = tmp_path / "out.json"
    assert predict(capsys, "--weights", best, image, "--output", output)[0] == 0
    assert json.loads(output.read_text())[0]["image"] == str(image)


def test_topk_beyond_the_classes_names_them_all_once(capsys, best, tmp_path):
    picture().save(tmp_path / "a.png")
    predict(capsys, "--weights", best, tmp_path / "a.png", "--topk", 99, "--output", tmp_path / "a.json")
    (row,) = json.loads((tmp_path / "a.json").read_text())
    probabilities = [p["probability"] for p in row["predictions"]]
    assert sorted(p["class"] for p in row["predictions"]) == [str(digit) for digit in range(10)]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)


def test_a_data_set_that_is_not_here_is_one_line(capsys, monkeypatch, best, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    options = best_weights.load(best)["options"]
    moved = changed(
        best, tmp_path / "moved.pth", options={**options, "dataset": "../no-photos", "data_dir": "/elsewhere"}
    )
    assert "so the test split of ../no-photos is wanted, but: --dataset ../no-photos: there is no" in refusal(
        capsys, "--weights", moved
    )
    built_in = changed(best, tmp_path / "digits.pth", options={**options, "data_dir": "/elsewhere"})
    assert predict(capsys, "--weights", built_in)[0] == 0  # digits need no folder
    assert "there is no such folder" in refusal(capsys, "--weights", best, "--data-dir", tmp_path / "absent")
    other = changed(best, tmp_path / "other.pth", class_names=[f"digit {digit}" for digit in range(10)])
    assert "has other classes or sizes" in refusal(capsys, "--weights", other)


def test_outputs_that_cannot_be_written_are_refused(capsys, best, tmp_path):
    image = tmp_path / "a.png"
    picture().save(image)
    (tmp_path / "folder.csv").mkdir()
    for output, words in (
        (tmp_path / "folder.csv", "is a folder"),
        (tmp_path / "absent" / "a.csv", "does not exist"),
        (tmp_path / "a.txt", "must end in .csv or .json"),
    ):
        assert words in refusal(capsys, "--weights", best, image, "--output", output)
    copied = shutil.copy(best, tmp_path)
    (tmp_path / "best-test").touch()
    assert "cannot write the report in" in refusal(capsys, "--weights", copied)
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refusal(capsys, "--weights", best, tmp_path / "empty")


def test_a_full_disk_is_one_line_and_leaves_the_old_file(capsys, best, tmp_path):
    resource = pytest.importorskip("resource")
    picture().save(tmp_path / "a.png")
    output = tmp_path / "out.csv"
    output.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))  # as if there were room for 16 bytes
    try:
        words = refusal(capsys, "--weights", best, tmp_path / "a.png", "--output", output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"--output {output}: " in words
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "out.csv"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a shell's pipes")
def test_a_reader_that_has_seen_enough_is_no_fault(best, tmp_path):
    """infer.py ... | head -1, and relative paths, as a user types it."""
    for number in range(3):
        picture().save(tmp_path / f"{number}.png")
    command = [sys.executable, str(REPOSITORY / "infer.py"), "--cpu", "--weights", os.path.relpath(best, tmp_path), "."]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=HANGS) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that nobody may write into")
def test_beside_weights_on_a_read_only_disk_nothing_is_written(best, tmp_path):
    """But in the working directory, the test's report and explanations both."""
    locked, here = tmp_path / "locked", tmp_path / "here"
    locked.mkdir()
    here.mkdir()
    shutil.copy(best, locked)
    locked.chmod(0o555)
    lock = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && ' if os.geteuid() == 0 else ""
    start = ["unshare", "--mount", "bash", "-c"] if lock else ["bash", "-c"]
    if subprocess.run([*start, f"{lock}true", locked], capture_output=True).returncode:
        pytest.skip("NOT TESTED: root may not mount here")
    test = ["--cpu", "--weights", str(locked)]
    commands = [test, [*test, "--explain", "occlusion", "--explain-count", "1"]]
    code = f"""
import infer
from tests.driver import leave_pictures_blank
leave_pictures_blank()
for command in {commands}:
    try:
        infer.main(command)
    except SystemExit as ended:
        assert not ended.code
"""
    done = subprocess.run(
        [*start, f'{lock}exec "$@"', locked, sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        cwd=here,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    for folder in ("test", "explain"):
        assert b"open     locked-best-" + folder.encode() in done.stdout
        assert list((here / f"locked-best-{folder}").glob("*.json"))
    assert [path.name for path in locked.iterdir()] == ["best.pth"]
