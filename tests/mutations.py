"""The safeguards behind the promises, each with the edit that switches it off and the claim that must then fail.

The promises are numbered as they were given: to survive SIGKILL (1), seeds (2), the ledger of samples (3), workers
(4), processes (5, also across a resume: 6), evaluation (7), drift (8), learning rates (9), accumulation (10), saving
under SIGKILL (11) and on a full disk (12), damage (13), pickles (14), signals (15), a killed process (16), NaN (17),
bad images (18), classes (19), options (20), photos, tables of labels, rare classes and repeats (21), several labels
(22), exported files (23), several machines, memory and batch norm's statistics (24). There is none for 16: that the
others end when one process is killed is the launcher's doing, and that a relaunch goes on is promise 1.
"""

from dataclasses import dataclass

# Put together here, as the project is searched for them.
UNSAFE_WEIGHTS, UNSAFE_ARRAYS = "weights_only=" + "False", "allow_pickle=" + "True"

RESUMED = "tests/test_resume.py::test_killed_and_resumed_equals_uninterrupted[7-1]"
SAME_STATE = "assert final_state(tmp_path) == final_state(whole_run[processes])"
PROCESSES = "tests/test_processes.py::test_"
SIGKILLED = "tests/test_checkpoint.py::test_sigkill_at_every_file_boundary_of_a_save_leaves_an_intact_checkpoint"
NO_PICKLE = "tests/test_checkpoint.py::test_no_pickle_is_ever_run"
BAD_INPUT = "tests/test_bad_input.py::test_"


@dataclass(frozen=True)
class Mutation:
    """A safeguard switched off.

    Attributes:
        promise: its number, and what is off.
        file, old, new: the edit; `old` is there exactly once.
        test: the pytest node that fails.
        claim: how the line that fails there begins, so that no other fault passes for the proof.
    """

    promise: str
    file: str
    old: str
    new: str
    test: str
    claim: str


MUTATIONS = [
    Mutation(
        "1 optimizer not loaded",
        "engine/checkpoints/resume.py",
        'store.load_optimizer(optimizer, found.tensors["optimizer"])',
        "pass",
        RESUMED,
        SAME_STATE,
    ),
    Mutation(
        "1 moving average not loaded",
        "engine/checkpoints/resume.py",
        'store.load_weights(ema, found.tensors["ema"], str(found.folder))',
        "pass",
        RESUMED,
        SAME_STATE,
    ),
    Mutation(
        "1 randomness of a step not seeded",
        "train.py",
        "seed_step(args.seed, state.step, accelerator.process_index, accelerator.device)",
        "pass",
        RESUMED,
        SAME_STATE,
    ),
    Mutation(
        "1 figures of the epoch under way not loaded",
        "engine/train_state.py",
        "self.metrics = {name: torch.full_like(zero, named.get(name, 0.0)) for name, zero in self.metrics.items()}",
        "pass",
        RESUMED,
        "assert figures(tmp_path) == figures(whole_run[processes])",
    ),
    Mutation(
        "2 first weights not seeded",
        "engine/build.py",
        "torch.manual_seed(args.seed)",
        "pass",
        "tests/test_resume.py::test_the_first_weights_depend_on_the_seed",
        "assert all((drawn[0][name] != drawn[1][name])",
    ),
    Mutation(
        "2 seed ignored by the order",
        "data/loader.py",
        "return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(ids)",
        "return np.random.Generator(np.random.Philox(key=[0, epoch])).permutation(ids)",
        "tests/test_loader.py::test_an_epoch_is_a_permutation_of_seed_and_epoch",
        "assert len(set(map(tuple, orders))) == 5",
    ),
    Mutation(
        "2 seed ignored by augmentation",
        "data/augment/draws.py",
        "for number in (seed, *numbers):",
        "for number in (0, *numbers):",
        "tests/test_augment.py::test_another_epoch_seed_or_index_gives_another_draw[crop=5]",
        "assert (first != other).flatten(1).any(1).sum() > 16",
    ),
    Mutation(
        "3 sampler begins anew at a resume",
        "engine/build.py",
        '"start_step": step,',
        '"start_step": 0,',
        RESUMED,
        "assert ledger(tmp_path, processes) == ledger(whole_run[processes], processes)",
    ),
    Mutation(
        "3 samples drawn with replacement",
        "data/loader.py",
        ".permutation(ids)",
        ".choice(ids, len(ids))",
        "tests/test_resume.py::test_every_epoch_sees_each_sample_once",
        "assert len(own) == len(set(own)) == 128",
    ),
    Mutation(
        "4 workers read other samples",
        "data/loader.py",
        "rows = torch.from_numpy(ids)",
        "rows = torch.from_numpy(np.roll(ids, torch.utils.data.get_worker_info() is not None))",
        "tests/test_loader.py::test_workers_do_not_change_a_bit",
        "assert all(torch.equal(a, b)",
    ),
    Mutation(
        "4 augmentation drawn by the place in the batch",
        "data/augment/draws.py",
        "return _mix(indices ^ start)",
        "return _mix(torch.arange(len(indices)) ^ start)",
        "tests/test_augment.py::test_a_samples_augmentation_does_not_depend_on_its_batch[crop=5-1]",
        "assert torch.equal(whole, torch.cat(split))",
    ),
    Mutation(
        "5 each process takes the same part",
        "data/loader.py",
        "step_of_epoch * self.global_batch_size + self.rank * share",
        "step_of_epoch * self.global_batch_size",
        PROCESSES + "more_processes_see_the_same_samples_and_reach_the_same_weights[2]",
        "assert samples(runs[processes], processes) == samples(runs[1], 1)",
    ),
    Mutation(
        "6 sampler begins anew at a resume",
        "engine/build.py",
        '"start_step": step,',
        '"start_step": 0,',
        PROCESSES + "resuming_on_another_number_of_processes_changes_nothing[2-1]",
        "assert done | samples(second, after) == samples(runs[1], 1)",
    ),
    Mutation(
        "6 optimizer not loaded",
        "engine/checkpoints/resume.py",
        'store.load_optimizer(optimizer, found.tensors["optimizer"])',
        "pass",
        PROCESSES + "resuming_on_another_number_of_processes_changes_nothing[1-2]",
        "assert difference(tmp_path, runs[1]) < 1e-6",
    ),
    Mutation(
        "7 repeats counted",
        "tasks/evaluate.py",
        "rows = min(left, len(batch.labels))",
        "rows = len(batch.labels)",
        PROCESSES + "evaluation_counts_every_sample_exactly_once_on_any_number_of_processes",
        "assert abs(correct - round(correct)) < 1e-9",
    ),
    Mutation(
        "7 repeats predicted",
        "tasks/evaluate.py",
        "labels[: len(part)].cpu()",
        "labels.cpu()",
        PROCESSES + "evaluation_counts_every_sample_exactly_once_on_any_number_of_processes",
        "assert len(labels) == size",
    ),
    Mutation(
        "8 drift not looked for",
        "engine/run.py",
        "agreement.check_equal_weights(self.unwrapped_model, self.accelerator)",
        "pass",
        PROCESSES + "processes_whose_weights_have_drifted_apart_save_nothing",
        "assert codes == [1, 1]",
    ),
    Mutation(
        "9 learning rate grows with the processes",
        "engine/run.py",
        "peak=args.lr,",
        "peak=args.lr * self.accelerator.num_processes,",
        PROCESSES + "the_learning_rate_is_the_same_on_any_number_of_processes_fresh_and_resumed",
        "assert rates(runs[processes], rank) == rates(runs[1])",
    ),
    Mutation(
        "10 loss not divided by the micro-batches",
        "train.py",
        "accelerator.backward(loss / args.accumulate)",
        "accelerator.backward(loss)",
        PROCESSES + "accumulation_changes_nothing_but_memory[2]",
        "assert difference(tmp_path, runs[1]) < 1e-6",
    ),
    Mutation(
        "11 older checkpoints removed first",
        "engine/checkpoints/store.py",
        "    staging.mkdir(parents=True)\n",
        "    staging.mkdir(parents=True)\n    list(map(shutil.rmtree, list_checkpoints(folder.parent)[keep - 1 :]))\n",
        SIGKILLED + "[one-kept-and-one-damaged]",
        "folder, loaded, state, _ = store.newest_intact(parent)",
    ),
    Mutation(
        "11 litter left",
        "engine/checkpoints/store.py",
        'folder.parent.glob(".step-*.tmp")',
        "()",
        SIGKILLED + "[two-kept]",
        "assert {path.name for path in parent.iterdir()} <=",
    ),
    Mutation(
        "11 a damaged checkpoint taken for a saved one",
        "engine/checkpoints/store.py",
        "    if is_intact(folder):\n        return\n",
        "    if folder.exists():\n        return\n",
        SIGKILLED + "[one-kept-and-one-damaged]",
        "assert moment > 15",
    ),
    Mutation(
        "12 error of a save swallowed",
        "engine/checkpoints/resume.py",
        'raise UserError(f"cannot save {folder}: {error}; make room, then go on with --resume auto") from error',
        "print(error)",
        "tests/test_checkpoint.py::test_a_disk_that_fills_up_ends_the_run_in_one_line_and_the_last_checkpoint_loads"
        "[checkpoint]",
        "assert str(small_disk / unwritten) in printed.splitlines()[-1]",
    ),
    Mutation(
        "13 sums not compared",
        "engine/checkpoints/store.py",
        "if _sha256(folder / name) != digest:",
        "if False:",
        "tests/test_checkpoint.py::test_damage_is_named_and_auto_falls_back[bit-flipped]",
        "with pytest.raises(store.Damaged",
    ),
    Mutation(
        "14 weights may hold anything",
        "engine/checkpoints/best_weights.py",
        "weights_only=True",
        UNSAFE_WEIGHTS,
        "tests/test_weights.py::test_weights_that_would_run_code_do_not",
        'assert f"refused, as it holds more than weights',
    ),
    Mutation(
        "14 cached arrays may hold anything",
        "data/cache.py",
        'np.load(folder / f"{name}-{array}.npy")',
        f'np.load(folder / f"{{name}}-{{array}}.npy", {UNSAFE_ARRAYS})',
        NO_PICKLE,
        "assert cache.read(decoded) is None",
    ),
    Mutation(
        "14 recipes may hold anything",
        "options/parser.py",
        "yaml.safe_load(",
        "yaml.unsafe_load(",
        NO_PICKLE,
        'with pytest.raises(UserError, match=r"could not determine a constructor"',
    ),
    Mutation(
        "14 unsafe loading written into the code",
        "engine/checkpoints/best_weights.py",
        "weights_only=True",
        UNSAFE_WEIGHTS,
        "tests/test_checkpoint.py::test_nothing_is_loaded_with_weights_only_false",
        "assert not any(call in path.read_text",
    ),
    Mutation(
        "15 signals not caught",
        "engine/runtime/signals.py",
        "self._before[number] = signal.signal(number, self._note)",
        "pass",
        "tests/test_resume.py::test_a_signal_saves_and_the_rest_follows_as_if_nothing_had_been[1-15-143]",
        "assert codes == [code] * processes",
    ),
    Mutation(
        "15 signals not agreed on",
        "engine/runtime/signals.py",
        "torch.distributed.all_reduce(wish, torch.distributed.ReduceOp.MAX)",
        "pass",
        "tests/test_resume.py::test_a_signal_to_one_process_stops_all_with_its_code[15-143]",
        "assert codes == [code, code]",
    ),
    Mutation(
        "15 a job that is to be started again ends as one that is to end",
        "engine/runtime/signals.py",
        'return REQUEUE if number == getattr(signal, "SIGUSR1", None) else 128 + number',
        "return 128 + number",
        "tests/test_resume.py::test_a_signal_to_one_process_stops_all_with_its_code[10-75]",
        "assert codes == [code, code]",
    ),
    Mutation(
        "16 the first process alone has a log",
        "engine/output/run_log.py",
        "if not _is_the_same(folder / NAME, mark):",
        "if True:",
        "tests/test_run_log.py::test_every_line_and_warning_of_all_processes_is_in_the_log",
        'assert "[rank 1] UserWarning: something is odd',
    ),
    Mutation(
        "17 NaN not looked for",
        "train.py",
        "run.finite_guard.check(state.step)",
        "pass",
        "tests/test_resume.py::test_nan_on_one_process_stops_all_at_that_step_with_the_weights_untouched[1]",
        "assert codes == [1, 1]",
    ),
    Mutation(
        "18 bad images not refused",
        "data/decode_all.py",
        "        if not skip_bad_images:\n            refuse_bad(",
        "        if False:\n            refuse_bad(",
        "tests/test_images.py::test_ten_bad_images_are_all_named_before_anything_is_cached",
        "with pytest.raises(UserError) as caught",
    ),
    Mutation(
        "18 size of an image not looked at",
        "data/decode.py",
        "if image.width * image.height > MAX_PIXELS:",
        "if False:",
        "tests/test_images.py::test_ten_bad_images_are_all_named_before_anything_is_cached",
        "assert message.startswith(",
    ),
    Mutation(
        "19 classes of the splits not compared",
        "data/readers.py",
        '_check_classes(source, name, split, splits["train"].class_names)',
        "pass",
        BAD_INPUT + "what_cannot_be_trained_is_refused[--dataset /renamed]",
        "with pytest.raises(SystemExit) as stopped",
    ),
    Mutation(
        "19 classes of parquet files not compared",
        "data/tables.py",
        "_check_files(source, column, list(feature.names))",
        "pass",
        "tests/test_classes.py::test_classes_in_another_order_or_of_other_names_are_refused[names0]",
        "with pytest.raises(UserError",
    ),
    Mutation(
        "20 numbers may be of any size",
        "options/values.py",
        "if not (math.isfinite(value) and low <= value <= high) or (open_low and value == low):",
        "if False:",
        BAD_INPUT + "a_mistyped_option_is_answered_at_once[--lr -0.1]",
        'assert (done.returncode, done.stdout) == (2, "")',
    ),
    Mutation(
        "20 a batch larger than the data",
        "engine/build.py",
        "if args.batch_size > num_samples:",
        "if False:",
        BAD_INPUT + "what_cannot_be_trained_is_refused[--batch-size 4000]",
        "train.main(",
    ),
    Mutation(
        "21 prediction cuts photos that training padded",
        "tasks/inference.py",
        "read_image(path, task.image_shape, task.ranges, task.geometry)",
        "read_image(path, task.image_shape, task.ranges)",
        "tests/test_geometry.py::test_prediction_prepares_a_photo_as_training_did[pad]",
        "assert np.array_equal(images, part.arrays.images[part.ids])",
    ),
    Mutation(
        "21 groups not kept together",
        "data/subsets.py",
        "    if part.arrays.groups is None:",
        "    if True:",
        "tests/test_label_files.py::test_a_group_is_never_in_two_parts[None]",
        "assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]",
    ),
    Mutation(
        "21 crops of photos forget the epoch",
        "data/live.py",
        "crop.boxes(own_size, torch.from_numpy(rows), epoch)",
        "crop.boxes(own_size, torch.from_numpy(rows), 0)",
        "tests/test_live.py::test_a_random_crop_is_torchvisions_of_the_same_box",
        "assert torch.equal(image, expected.permute(1, 2, 0)), name",
    ),
    Mutation(
        "21 photos that stay encoded are cut another way",
        "data/live.py",
        "to_array(image, channels, (height, width), self.ranges, self.geometry)",
        "to_array(image, channels, (height, width), self.ranges)",
        "tests/test_live.py::test_images_that_stay_encoded_are_prepared_as_those_that_are_cached[geometry2-tree]",
        "assert np.array_equal(own.arrays.images[own.ids], other.arrays.images[other.ids])",
    ),
    Mutation(
        "21 balanced sampling forgets the epoch",
        "data/loader.py",
        "random = np.random.Generator(np.random.Philox(key=[seed, epoch]))",
        "random = np.random.Generator(np.random.Philox(key=[seed, 0]))",
        "tests/test_imbalance.py::"
        "test_balanced_sampling_shows_classes_by_their_share_and_images_of_one_equally_often[0.0-shares0]",
        "assert not np.array_equal(order, balanced_order(ids, labels, power, 1, 4))",
    ),
    Mutation(
        "21 repeats of an image are augmented alike",
        "data/loader.py",
        "(self.rank * share + np.arange(share)) % self.repeats",
        "(self.rank * share + np.arange(share)) * 0",
        "tests/test_repeats.py::test_as_many_epochs_show_what_they_show_without_repeats[2]",
        "assert sorted(with_them) == sorted(without)",
    ),
    Mutation(
        "24 batch norm's statistics are each process's own",
        "train.py",
        "average_statistics(statistics, accelerator.num_processes)  # batch norm's",
        "pass",
        "tests/test_batch_norm_statistics.py::test_they_are_the_mean_over_processes_of_what_each_would_have[2]",
        "torch.testing.assert_close(value, apart.mean(0)",
    ),
    Mutation(
        "24 each process goes by its own memory",
        "engine/micro_batches.py",
        "all(gather_object([_fits(replace(args, accumulate=accumulate), task, data, accelerator)]))",
        "_fits(replace(args, accumulate=accumulate), task, data, accelerator)",
        "tests/test_accumulate_auto.py::test_all_processes_go_by_the_one_that_has_least_room",
        'assert "--accumulate auto is 2, 16 images at a time',
    ),
    Mutation(
        "24: a step for which memory did not suffice leaves nothing behind",
        "engine/micro_batches.py",
        "buffer.copy_(value)",
        "pass",
        "tests/test_accumulate_auto.py"
        "::test_a_step_that_fails_is_taken_back_and_the_run_goes_on_as_one_resumed_there_with_the_number",
        'assert files(tmp_path / "auto", step) == files(tmp_path / "typed", step)',
    ),
    Mutation(
        "22 thresholds of several labels stay at a half",
        "engine/run.py",
        "**self.task.learned(self.best_record),",
        "**self.task.learned({}),",
        "tests/test_multilabel.py::"
        "test_a_run_is_judged_as_scikit_learn_judges_it_and_its_thresholds_go_with_the_weights",
        'assert content["thresholds"] == history["epochs"][history["best_epoch"] - 1]["val_thresholds"]',
    ),
    Mutation(
        "22 several labels dealt out without counting",
        "data/iterative_split.py",
        "lacking = np.zeros(len(shares)) if label is None else wanted[label]",
        "lacking = np.zeros(len(shares))",
        "tests/test_multilabel.py::test_every_part_has_its_share_of_every_label_and_equal_images_stay_together",
        "assert (abs(sets[chosen].sum(0) - share * sets.sum(0)) <= 2).all()",
    ),
    Mutation(
        "23 flagged images stay in train",
        "data/exclusion.py",
        "train.ids[~left_out]",
        "train.ids",
        "tests/test_clean.py::test_exactly_the_flagged_images_are_left_out_of_train[cache-as_folders]",
        "assert less.train.names() == [name for index, name in enumerate(names) if index % 3]",
    ),
    Mutation(
        "23 near duplicates looked for by one piece of the hash too few",
        "cleaning/near_duplicates.py",
        "np.linspace(0, 64, radius + 2)",
        "np.linspace(0, 64, radius + 1)",
        "tests/test_clean.py::test_near_pairs_are_those_of_a_comparison_of_all_with_all[2]",
        "assert near_duplicates.near_pairs(hashes, radius).tolist() == expected and expected",
    ),
    Mutation(
        "23 exported files are kept whatever they answer",
        "deploy/check.py",
        "return self.held and not self.prepared.largest <= tolerance",
        "return False",
        "tests/test_export.py::test_a_file_that_differs_is_not_kept_and_the_exit_code_is_1[mean]",
        "assert code == 1",
    ),
    Mutation(
        "23 the temperature is left out of exported files",
        "deploy/classifier.py",
        "return (logits / self.temperature).softmax(1)",
        "return logits.softmax(1)",
        "tests/test_export.py::test_colour_temperature_and_views_are_in_the_file[torchscript-crop]",
        "assert np.abs(found - expected).max() < ",
    ),
    Mutation(
        "22 a stream goes on one image early",
        "data/streams/order.py",
        "place = replace(drawn[-1][1], taken=drawn[-1][1].taken + 1)",
        "place = drawn[-1][1]",
        "tests/test_stream.py::test_from_every_step_it_goes_on_as_it_would_have[1]",
        "assert list(itertools.islice(rest, 6)) == list(itertools.chain(*drawn[step : step + 3]))",
    ),
    Mutation(
        "23 the temperature is kept and not applied",
        "tasks/classification/task.py",
        "return (logits.float() / self.temperature).softmax(1)",
        "return logits.float().softmax(1)",
        "tests/test_calibration.py::test_it_is_fitted_on_validation_and_changes_no_answer_but_what_they_are_worth",
        'assert calibrated["loss"] < plain["loss"] and "uncalibrated" not in plain',
    ),
    Mutation(
        "23 a judged set keeps its own numbers of classes",
        "engine/judge.py",
        "labels = number[arrays.labels]",
        "labels = arrays.labels",
        "tests/test_judge.py::test_classes_are_matched_by_name_whatever_their_order_and_a_missing_one_is_told",
        'assert {(Path(row["image"]).name, row["true"]): row["class_1"] for row in rows} == expected',
    ),
    Mutation(
        "24 machines' code not compared",
        "train.py",
        "agreement.check_code(accelerator)",
        "pass",
        "tests/test_two_machines.py::test_what_differs_on_one_machine_is_refused_by_name_with_nothing_written[code]",
        "assert process.wait(LIMIT) != 0",
    ),
]
