"""best.pth is plain data that fits its model; a file that is not so is refused in one line, and nothing in it runs."""

import os
import pickle

import pytest
import torch

from engine.checkpoints import best_weights
from tests.conftest import changed, predict, refusal
from tests.rounding import assert_rounds_like, in_float64, longest_sum, times_of_sums


def test_best_pth_is_plain_data(best):
    content = torch.load(best, weights_only=True)
    assert content["class_names"] == [str(digit) for digit in range(10)]
    assert all(isinstance(value, torch.Tensor) for value in content["weights"].values())
    assert not any(name.startswith(("module.", "_orig_mod.")) for name in content["weights"])


class Malice:
    """Makes a folder when it is unpickled."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


def test_weights_that_would_run_code_do_not(capsys, best, tmp_path):
    place = changed(best, tmp_path / "evil.pth", options=Malice(tmp_path / "pwned"))
    words = refusal(capsys, "--weights", place, tmp_path)
    assert f"refused, as it holds more than weights: {os.mkdir.__module__}.mkdir" in words
    assert not (tmp_path / "pwned").exists()
    pickle.loads(pickle.dumps(Malice(tmp_path / "pwned")))
    assert (tmp_path / "pwned").exists()  # so it was dangerous


def test_files_that_are_no_weights_are_refused(capsys, best, tmp_path):
    whole = best.read_bytes()
    bad = tmp_path / "bad.pth"
    for content in (whole[: len(whole) // 2], whole[:-1], b"", b"hello\n" * 100, bytes(1000)):
        bad.write_bytes(content)
        assert "not a best.pth of train.py, or a damaged one" in refusal(capsys, "--weights", bad)
    torch.save(torch.nn.Linear(2, 2).state_dict(), bad)
    assert "it lacks weights, model, " in refusal(capsys, "--weights", bad)
    assert "No such file" in refusal(capsys, "--weights", tmp_path / "absent.pth")
    assert f"--weights {best.parent.parent / 'best.pth'}: No such file" in refusal(
        capsys, "--weights", best.parent.parent
    )
    assert f"give a run's best.pth; did you mean {best.parent}?" in refusal(
        capsys, "--weights", best.parent.parent / "tini" / "best.pth"
    )


def test_the_folder_of_a_run_stands_for_its_best_weights(capsys, best):
    assert predict(capsys, "--weights", best.parent)[:2] == predict(capsys, "--weights", best)[:2]


@pytest.mark.parametrize(
    ("changes", "words"),
    (
        ({"class_names": ["yes", "no"]}, "of another model or class count: head.3.weight is (10, "),
        ({"model": "mlp"}, "of another model or class count: "),
        ({"model_args": {"width": 8}}, "of another model or class count: stem.0.weight is (64, "),
        ({"model_args": {"size": 8}}, "names a model that cannot be built: "),
        ({"model": "cnnn"}, "unknown model 'cnnn': did you mean cnn?"),
        ({"shape": [4, 4, 1]}, "at least 8x8 pixels"),
    ),
)
def test_weights_that_do_not_fit_their_model_are_refused(capsys, best, tmp_path, changes, words):
    assert words in refusal(capsys, "--weights", changed(best, tmp_path / "odd.pth", **changes))


def test_a_pretrained_model_is_rebuilt_without_a_download(monkeypatch, tmp_path):
    import timm

    model = timm.create_model("test_resnet", in_chans=1, num_classes=2)
    options = {"channels_last": True}
    content = {"weights": model.state_dict(), "model": "timm/test_resnet", "model_args": {"pretrained": True}}
    content |= {"shape": [32, 32, 1], "class_names": ["a", "b"], "options": options, "mean": [0.5], "std": [0.5]}
    monkeypatch.setattr(timm.models._builder, "load_pretrained", lambda *a, **k: pytest.fail("went to the network"))
    rebuilt = best_weights.restore(content, "best.pth")[0].eval()
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        found, expected = rebuilt(images), model.eval()(images)
    assert_rounds_like(found, expected, in_float64(model, images), times_of_sums(longest_sum(model)))
