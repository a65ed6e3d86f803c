"""Bad input: exit code 2, one line on stderr that names the thing and the remedy, no traceback, nothing written."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common.version import VERSION
from tests.conftest import REPOSITORY, write_images

# What is refused before torch is imported: (arguments, what the line says).
EARLY = [
    ("--epoch 3", "unrecognized arguments: --epoch 3: did you mean --epochs"),
    ("--learning-rate 0.1", "did you mean --lr\\?"),
    ("--batch_size=64", "did you mean --batch-size\\?"),
    ("--model resnet18", "unknown model 'resnet18': did you mean timm/resnet18\\?"),
    ("--model cnnn", "unknown model 'cnnn': did you mean cnn"),
    ("--model timm/resnet18x", "did you mean timm/resnet18"),
    ("--model timm/nothing_like_it", "unknown model 'timm/nothing_like_it'.*--list-models"),
    ("--dataset cifar1O", "unknown data set 'cifar1O': did you mean cifar10"),
    ("--dataset ./no/such/folder", "no such folder"),
    ("--dataset nothing", "no class|holds neither parquet files nor images"),
    ("--data-dir no_such_folder", "--data-dir no_such_folder: there is no such folder"),
    (f"--resume {'n' * 300}", "--resume n* does not exist"),
    ("--resume no/such/run", "--resume no/such/run does not exist"),
    ("--recipe no_such_recipe", "no file no_such_recipe.yaml; the recipes are"),
    (f"--recipe {'n' * 300}.yaml", "there is no file n*.yaml; the recipes are"),
    ("--recipe key.yaml", "unknown option 'learning_rate': did you mean lr\\?"),
    ("--recipe value.yaml", "lr.*'fast' is not a number"),
    ("--recipe flag.yaml", "compile is true or false, not 'maybe'"),
    ("--recipe broken.yaml", "cannot be read as YAML"),
    ("--recipe list.yaml", "must hold lines of 'option: value'"),
    ("--augment flip,zoom", "no augmentation is called 'zoom'"),
    ("--augment crop=-1", "crop=-1 is out of range"),
    ("--augment randaugment,trivialaugment", "exclude each other"),
    ("--lr 0", "0 is out of range: give a number above 0"),
    ("--lr -0.1", "-0.1 is out of range"),
    ("--lr nan", "nan is out of range"),
    ("--epochs 1.5", "'1.5' is not a whole number"),
    ("--batch-size 0", "0 is out of range"),
    ("--val-fraction 1", "1 is out of range"),
    ("--optimizer lion", "invalid choice: 'lion'"),
    ("--mixed-precision fp8", "invalid choice: 'fp8'"),
    ("--track mlflow", "unknown tracker 'mlflow'"),
    ("--model-arg width", "'width' is not key=value"),
    ("--model-arg num_classes=3", "num_classes follows from --model, its images and classes: leave it out"),
    ("--seeds 0,1,0", "'0,1,0' names a seed twice"),
    ("--seeds 0,x", "'x' is not a whole number"),
    ("--folds 1", "1 is out of range"),
    ("--fold 3", "--fold 3 needs --folds"),
    ("--folds 3 --val-fraction 0.1", "leave --val-fraction out"),
    ("--sweep lr", "'lr' is not OPTION=VALUE"),
    ("--sweep lr=0.1,0", "0 is out of range"),
    ("--sweep optimizer=sgd,lion", "invalid choice: 'lion'"),
    ("--sweep compile=maybe", "the values are true and false, not 'maybe'"),
    ("--sweep run-name=a,b", "run_name: cannot be swept"),
    ("--sweep seed=3,4 --seeds 0,1", "--sweep seed and --seeds say the same"),
    ("--ensemble", "--ensemble needs several runs"),
    ("--seeds 0,1 --resume runs/x", "resumed together"),
    ("--freeze body", "'body' is not none, head, or how many groups"),
    ("--freeze head=0.2,none=0.5", "needs shares of the epochs that add up to 1"),
    ("--match-classes", "--match-classes needs the weights of --pretrained"),
    ("--mean 0.5,2", "2 is out of range"),
    ("--std 0", "0 is out of range"),
    ("--interpolation nearest", "invalid choice: 'nearest'"),
    ("--task transform --transform vflip --freeze head", "--freeze: of no use for --task transform"),
    ("--patience 3 --val-fraction 0", "--patience waits for a better validation"),
    ("--freeze ²", "'²' is not none, head, or how many groups"),
    ("--freeze head=nan", "needs shares of the epochs that add up to 1"),
    ("--train-sizes 20=nan", "shares that add up to 1"),
    ("--dataset ~no_such_user/pets", "no such folder"),
    (f"--dataset ./{'n' * 300}", "no such folder"),
    ("--seeds 0,1 --resume auto", "--resume auto needs the --run-name"),
    ("--ensemble --sweep dataset=digits,mnist", "needs the same test images, which --sweep dataset changes"),
    ("--recipe sweep.yaml", "'lr=fast' is not|'fast' is not a number"),
    ("--smoke-test --resume auto --run-name x", "--smoke-test is a run of its own: leave --resume out"),
    ("--checkpoint-every never", "'never' is not a whole number"),
]
RECIPES = {
    "key.yaml": "learning_rate: 0.1",
    "value.yaml": "lr: fast",
    "flag.yaml": "compile: maybe",
    "broken.yaml": "lr: [0.1",
    "list.yaml": "- lr",
    "sweep.yaml": "sweep: {lr: fast}",
}

# Those that take a second or more together, and what 140 modules of Python's own and ours may grow to.
SLOW_TO_IMPORT = {"torch", "numpy", "accelerate", "datasets", "huggingface_hub", "timm", "sklearn", "pyarrow", "PIL"}
MOST_MODULES = 250


def environment(**changes: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "SAMELOOP_DATA"} | changes


def files_below(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def answer(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess, set[str]]:
    """What train.py says when started in `folder`, and the modules that it imported for that."""
    command = [sys.executable, "-X", "importtime", str(REPOSITORY / "train.py"), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    lines = done.stderr.splitlines(keepends=True)
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    done.stderr = "".join(line for line in lines if not line.startswith("import time:"))
    return done, imported


def check_few_imports(imported: set[str]) -> None:
    assert 20 < len(imported) < MOST_MODULES and not imported & SLOW_TO_IMPORT


def check_line(stderr: str, says: str) -> None:
    assert stderr.startswith("error: ") and stderr.count("\n") == 1 and stderr.endswith("\n"), stderr
    assert re.search(says, stderr), stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("arguments, says", EARLY, ids=[arguments[:60] for arguments, _ in EARLY])
def test_a_mistyped_option_is_answered_at_once(arguments, says, tmp_path):
    (tmp_path / "nothing").mkdir()
    for name, text in RECIPES.items():
        (tmp_path / name).write_text(text + "\n")
    before = files_below(tmp_path)
    done, imported = answer(tmp_path, *arguments.split(), "--output-dir", "out")
    assert (done.returncode, done.stdout) == (2, "")
    check_line(done.stderr, says)
    check_few_imports(imported)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(
    "option, says",
    [
        ("--help", "--mixed-precision"),
        ("--list-models", "timm/resnet18\n"),
        ("--list-datasets", "cifar100"),
        ("--version", f"Sameloop {VERSION}\n"),
        ("--list-recipes", "mnist_quick          The default network on MNIST for three epochs\n"),
    ],
)
def test_a_question_is_answered_at_once(option, says, tmp_path):
    done, imported = answer(tmp_path, option)
    assert (done.returncode, done.stderr) == (0, "") and says in done.stdout
    check_few_imports(imported)
    assert not list(tmp_path.iterdir())


def test_a_recipe_is_read_as_the_options_that_it_names(tmp_path):
    from options.train import parse_train

    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "mixed-precision: no\nlr: 1e-3\ncompile: true\nchannels_last: false\naugment: [flip, crop=2]\n"
        "model_arg: {width: 8, name: wide}\nepochs: 3\n"
    )
    args = parse_train(["--recipe", str(recipe), "--epochs", "5", "--model-arg", "width=16"])
    assert (args.mixed_precision, args.lr, args.compile, args.channels_last) == ("no", 1e-3, True, False)
    assert (args.augment, args.epochs, args.model_arg) == ("flip,crop=2", 5, {"width": 16, "name": "wide"})


# What is found out with torch loaded: (arguments, what the line says); {0} is the folder of `refused`.
LATE = [
    ("--batch-size 4000", "--batch-size 4000 is more than the 1.* training images"),
    ("--batch-size 100 --accumulate 3", "--batch-size 100 .*--accumulate 3: give a multiple of 3"),
    ("--limit-train 5000", "--limit-train 5000: only 1.* training images"),
    ("--limit-val 5000", "--limit-val 5000: only 1.* validation images"),
    ("--limit-test 5000", "--limit-test 5000: only 3.* test images"),
    ("--mixed-precision fp16", "fp16 does nothing on a CPU: give --mixed-precision"),
    ("--coarse", "--coarse: digits has one set of classes only"),
    ("--dataset {0}/pets --coarse", "--coarse: pets has one set of classes only"),
    ("--augment crop=20", "crop=20 reflects 20 pixels"),
    ("--image-size 4", "--model cnn does not work on 4x4 images.*at least 8x8"),
    ("--model timm/test_vit --image-size 20", "--model timm/test_vit does not work on 20x20 images.*patch size"),
    ("--model-arg depht=3", "--model-arg depht: cnn has no such argument; it takes width, dropout"),
    ("--model timm/test_vit --model-arg depht=3", "--model-arg depht: timm/test_vit has no such argument"),
    ("--output-dir {0}/a_file/runs", "cannot write in .*a_file: give another --output-dir"),
    ("--output-dir {0}/a_file", "cannot write in .*a_file: give another --output-dir"),
    ("--run-name a/b", "--run-name 'a/b' must be the name of one folder"),
    ("--run-name old --output-dir {0}/runs", "the run .*old exists: give another --run-name"),
    ("--resume auto", "--resume auto needs the --run-name"),
    ("--resume {0}/runs/old", "--resume .*runs/old"),
    ("--resume {0}/a_file", "a_file is no folder step-N of checkpoints/, nor a run's folder"),
    (f"--run-name {'n' * 300}", "--run-name n*: give 200 bytes or less"),
    (f"--output-dir {'n' * 300}", "cannot write in .*too long"),
    ("--batch-size 1 --model fashion_cnn", "fashion_cnn does not work .*more than 1 value"),
    ("--model fcn --model-arg stride=0", "--model fcn does not work"),
    ("--dataset {0}/tiny --folds 20 --fold 19", "too small for --folds 20: give fewer"),
    ("--dataset {0}/one", "one class only .*cat"),
    ("--dataset {0}/hollow", "class folder .*dog holds no image"),
    ("--dataset {0}/flat", "no folder for each class"),
    ("--dataset {0}/extra", r"test split .*missing none, extra \['owl'\]"),
    ("--dataset {0}/renamed", r"test split .*missing \['dog'\], extra \['Dog'\]"),
    ("--dataset {0}/tiny", "too small for a validation part: give --val-fraction 0"),
    ("--dataset {0}/untrained", "has no train split, only: test"),
]


@pytest.fixture(scope="module")
def refused(tmp_path_factory) -> Path:
    """A folder of data sets, each with one thing wrong."""
    root = tmp_path_factory.mktemp("refused")
    (root / "a_file").touch()
    (root / "runs" / "old").mkdir(parents=True)
    (root / "runs" / "old" / "args.yaml").touch()
    (root / "parquet").mkdir()
    (root / "parquet" / "train.parquet").write_bytes(b"PAR1 no more than this PAR1")
    for folder in ("pets/cat", "pets/dog", "one/cat", "hollow/cat", "flat", "untrained/test/cat"):
        write_images(root / folder, 10)
    for name, classes in {"extra": ["cat", "dog", "owl"], "renamed": ["cat", "Dog"]}.items():
        for folder in ("train/cat", "train/dog", *(f"test/{name}" for name in classes)):
            write_images(root / name / folder, 10)
    for folder in ("cat", "dog"):
        write_images(root / "tiny" / folder, 3)
    (root / "hollow" / "dog").mkdir()
    return root


@pytest.fixture
def fresh_accelerator():
    from accelerate.state import AcceleratorState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("arguments, says", LATE, ids=[arguments.format("")[:60] for arguments, _ in LATE])
def test_what_cannot_be_trained_is_refused(
    arguments, says, refused, tmp_path, own_cache, monkeypatch, capsys, fresh_accelerator
):
    import train

    before = files_below(refused)
    monkeypatch.delenv("SAMELOOP_DATA", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SystemExit) as stopped:
        train.main(["--cpu", *arguments.format(refused).split()])
    output = capsys.readouterr()
    assert stopped.value.code == 2
    check_line(output.err, says)
    assert re.fullmatch(r".* loading PyTorch \.\.\.\n", output.out)
    assert not list((tmp_path / "here").iterdir()) and files_below(refused) == before


def test_damaged_parquet_is_one_line_though_other_libraries_log_it_too(refused, tmp_path):
    script = f"""
from data.dataset import load_images
from common.errors import exit_on_user_error
with exit_on_user_error():
    load_images("{refused}/parquet")
"""
    command = [sys.executable, "-c", script]
    caches = environment(HF_HOME=str(tmp_path))
    done = subprocess.run(command, cwd=REPOSITORY, env=caches, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    check_line(done.stderr, "parquet cannot be opened: .*smaller than")


@pytest.mark.parametrize(("hub", "attempts"), [("http://127.0.0.1:9", 1), ("offline", 0)])
def test_no_network_and_no_copy_names_the_three_ways_out(
    hub, attempts, tmp_path, own_cache, monkeypatch, capsys, fresh_accelerator
):
    import datasets
    import huggingface_hub

    import train

    for config in (datasets.config, huggingface_hub.constants):  # which this fault sets, for as long as a process lives
        monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv(*(("HF_HUB_OFFLINE", "1") if hub == "offline" else ("HF_ENDPOINT", hub)))
    for name in ("HTTPS_PROXY", "https_proxy", "SAMELOOP_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    asked, connect = [], socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", lambda self, to: asked.append(to) or connect(self, to))
    with pytest.raises(SystemExit) as stopped:
        train.main("--cpu --dataset mnist --epochs 1 --limit-train 64 --limit-val 64 --limit-test 64".split())
    assert stopped.value.code == 2
    assert len(asked) == attempts, "the Hub is asked once, as each retry takes seconds"
    check_line(
        capsys.readouterr().err,
        "ylecun/mnist .*Three ways out: connect .*; put a copy at DIR/mnist and give --data-dir DIR; "
        "or give --dataset digits",
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 100, b"PK\x03\x04 cut short", None], ids=["empty", "text", "zip", "none"]
)
def test_weights_that_are_none_are_refused(content, tmp_path, monkeypatch, capsys, fresh_accelerator):
    import infer

    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "best.pth").write_bytes(content)
    before = files_below(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        infer.main(["--cpu", "--weights", "best.pth", "picture.png"])
    assert stopped.value.code == 2
    check_line(capsys.readouterr().err, "--weights best.pth: ")
    assert files_below(tmp_path) == before
