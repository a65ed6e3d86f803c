"""An option is what its declaration says: in --help, in args.yaml, at a resume, in a comparison, in a sweep."""

import argparse
from dataclasses import replace

import pytest

from common.errors import UserError
from options.groups import GROUPS, OPTIONS, MultirunOptions
from options.multirun import members
from options.schema import Role, declared
from options.train import parse_train, train_parser


def test_every_declared_option_is_parsed_and_shows_its_default():
    actions = {action.dest: action for action in train_parser()._actions}
    for name, option in OPTIONS.items():
        if option.help is None:
            continue
        assert actions[name].option_strings[0] == option.flag
        assert "(default:" in actions[name].help or option.role is Role.COMMAND, name
    assert actions.keys() - OPTIONS.keys() == {"help", "version", argparse.SUPPRESS}
    assert sum(len(declared(group)) for group in GROUPS.values()) == len(OPTIONS) - 2  # recipe, member_of


def test_defaults_follow_from_other_options():
    args = parse_train(["--optimizer", "muon", "--schedule", "onecycle", "--momentum", "0.5"])
    assert (args.lr, args.weight_decay, args.momentum, args.head_lr, args.bias_lr) == (0.24, 0.0, 0.5, 0.005, 0.2)
    assert args.warmup == 0.3
    args = parse_train([])
    assert (args.lr, args.weight_decay, args.momentum, args.head_lr, args.warmup) == (2e-3, 0.05, 0.9, 1.0, 0.05)


def test_a_resumed_run_may_differ_in_what_does_not_change_its_results_alone():
    results = {
        "dataset",
        "epochs",
        "patience",
        "cpu",
        "compile",
        "pretrained",
        "labels",
        "calibrate",
        "exclude",
        "accumulate",
        "grad_checkpointing",
    }  # images are compared themselves
    where = {"data_dir", "output_dir", "track", "log_every", "checkpoint_every", "keep", "workers", "verbose"}
    commands = {"recipe", "resume", "run_name", "max_time", "seeds", "sweep", "ensemble", "member_of"}
    assert {name for name, option in OPTIONS.items() if not option.must_match} == results | where | commands
    assert {name for name, option in OPTIONS.items() if not option.is_kept} == commands
    unlike = where | commands | {"skip_bad_images", "eval_every", "folds"}
    assert {name for name, option in OPTIONS.items() if not option.is_compared} == unlike


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if not option.can_be_swept])
def test_what_cannot_be_swept_is_refused(name):
    with pytest.raises(UserError, match=f"--sweep {name}: cannot be swept"):
        members(MultirunOptions(sweep=[(name, ["1", "2"])]), [])


def test_parsed_options_are_not_changed_in_place():
    args = parse_train([])
    with pytest.raises(AttributeError, match="cannot assign to field"):
        args.lr = 1.0
    assert replace(args, lr=1.0).lr == 1.0 and args.lr == 2e-3


def test_a_default_in_the_environment_is_read_when_options_are_parsed(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMELOOP_DATA", str(tmp_path))
    assert parse_train([]).data_dir == str(tmp_path)
    assert parse_train(["--data-dir", str(tmp_path.parent)]).data_dir == str(tmp_path.parent)
    monkeypatch.delenv("SAMELOOP_DATA")
    assert parse_train([]).data_dir is None
