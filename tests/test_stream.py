"""A stream: each image once a pass, the same order whoever loads it, and a killed run goes on where it was."""

import http.server
import io
import itertools
import json
import signal
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from common.errors import UserError
from data.augment.boxes import RandomCrop
from data.dataset import load_images
from data.geometry import MIDDLE
from data.live import LiveImages
from data.streams.batches import StreamedImages
from data.streams.load import load_stream
from data.streams.order import Place, Sample, StreamDraw, StreamSampler, place_for
from data.workers import loader
from options.train import parse_train
from tests.driver import Fault, train
from tests.test_resume import ANYTHING, figures, ledger

NAMES = ["ant", "bee", "cow"]
SIZES = (23, 40, 7, 31, 19)  # images of each shard, which no chunk divides


def encoded(number: int, kind: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    """An image that shows its number: 251 * red + green."""
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    pixels[:, :, 0], pixels[:, :, 1] = number // 251, number % 251
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def number_of(image: np.ndarray) -> int:
    return int(image[0, 0, 0]) * 251 + int(image[0, 0, 1])


def write_shard(path: Path, numbers: range, labels: list | None = None, names: list[str] | None = NAMES) -> None:
    images = [{"bytes": encoded(number), "path": f"{number}.png"} for number in numbers]
    labels = [number % 3 for number in numbers] if labels is None else labels
    table = pyarrow.table({"image": images, "label": labels})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, path, row_group_size=10)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five shards to train on, images 0..119, and others to validate and test on."""
    root = tmp_path_factory.mktemp("data") / "numbered"
    root.mkdir()
    first = 0
    for shard, count in enumerate(SIZES):
        write_shard(root / f"train-{shard:05}-of-00005.parquet", range(first, first + count))
        first += count
    write_shard(root / "validation-00000-of-00001.parquet", range(200, 230))
    write_shard(root / "test-00000-of-00001.parquet", range(300, 333))
    return root


@pytest.fixture
def opened(shards: Path, own_cache: Path):
    return load_stream(str(shards), decode="cache")


def sampler(data, rank: int = 0, processes: int = 1, **more) -> StreamSampler:
    options = {"buffer": 25, "seed": 3, "start_step": 0, "total_steps": 60, "steps_per_epoch": 20}
    options |= {"global_batch_size": 6, "accumulate": 1, "rank": rank, "num_processes": processes} | more
    return StreamSampler(stream=data.train.stream, **options)


def read(samples: list[Sample]) -> list[tuple[int, int, int]]:
    """(id, the number that the image shows, label) of each."""
    images = [np.asarray(Image.open(io.BytesIO(sample.encoded["bytes"]))) for sample in samples]
    return [(sample.id, number_of(image), sample.label) for sample, image in zip(samples, images, strict=True)]


def passes(order: StreamSampler, count: int) -> list[list[tuple[int, int, int]]]:
    """What a process reads in its first `count` passes."""
    found = itertools.takewhile(lambda found: found[1].number < count, order.samples())
    grouped = itertools.groupby(found, lambda found: found[1].number)
    return [read([sample for sample, _, _ in some]) for _, some in grouped]


@pytest.mark.parametrize("processes", [1, 2, 3, 6])  # five shards: whole ones for each, or for six one row of six
def test_each_image_is_read_once_a_pass_and_by_one_process(opened, processes: int) -> None:
    by_rank = [passes(sampler(opened, rank, processes), 2) for rank in range(processes)]
    for number in range(2):
        images = [image for mine in by_rank for _, image, _ in mine[number]]
        assert sorted(images) == list(range(120))
    everything = [sample for mine in by_rank for one_pass in mine for sample in one_pass]
    assert all(label == image % 3 for _, image, label in everything)
    assert len({id for id, _, _ in everything}) == len(everything)  # so augmentation is drawn for each anew


def test_the_order_is_a_function_of_the_seed_and_changes_from_pass_to_pass(opened) -> None:
    first, second = ([image for _, image, _ in one] for one in passes(sampler(opened), 2))
    again, other = passes(sampler(opened), 1)[0], passes(sampler(opened, seed=4), 1)[0]
    assert [image for _, image, _ in again] == first
    assert len({tuple(first), tuple(second), tuple(image for _, image, _ in other)}) == 3
    mixed = np.array(first[:25])  # of a block: images of all five shards, in no order
    assert len({np.searchsorted(np.cumsum(SIZES), image, "right") for image in mixed}) == 5
    assert not (np.diff(mixed) > 0).all()


@pytest.mark.parametrize("processes", [1, 2, 6])
def test_from_every_step_it_goes_on_as_it_would_have(opened, processes: int) -> None:
    rank, options = processes - 1, {"accumulate": 2, "global_batch_size": 12, "buffer": 17}
    whole = sampler(opened, rank, processes, **options)
    drawn, places = [], {}
    for step, draws in enumerate(zip(*[iter(whole)] * 2, strict=True)):
        places[step + 1] = json.loads(json.dumps(whole.place_of(step + 1)))  # before the next one is drawn
        assert whole.place_of(step) == places.get(step, whole.place_of(0))  # and it stays known
        drawn.append(list(draws))
    for step in (*range(1, 40), 59):
        places_of_all = [places[step]] * processes
        rest = sampler(
            opened, rank, processes, start_step=step, start=place_for(places_of_all, rank, processes), **options
        )
        assert list(itertools.islice(rest, 6)) == list(itertools.chain(*drawn[step : step + 3]))


def test_with_another_number_of_processes_the_pass_under_way_begins_again(opened) -> None:
    places = [
        {"number": 2, "first": 240, "readers": [{}], "taken": 3},
        {"number": 3, "first": 260, "readers": None, "taken": 0},
    ]
    assert [place_for(places, rank, 3) for rank in range(3)] == [Place(2, 260)] * 3
    numbers = [
        image
        for _, image, _ in read(
            [s for s, _, _ in itertools.islice(sampler(opened, start=Place(2, 260)).samples(), 120)]
        )
    ]
    assert sorted(numbers) == list(range(120))


def test_an_image_is_mixed_with_another_of_its_block_and_the_same_at_a_resume(opened) -> None:
    def partners(ids: torch.Tensor, epoch: int) -> torch.Tensor:
        return ids * 7 + epoch

    mixed = sampler(opened, partners=partners)
    draws = list(itertools.islice(mixed, 30))
    assert mixed.images_at_once == 12 and all(len(draw.samples) == 12 for draw in draws)
    plain = list(itertools.islice(sampler(opened), 30))
    assert [draw.samples[:6] for draw in draws] == [draw.samples for draw in plain]
    partner_images = {image for draw in draws for _, image, _ in read(draw.samples[6:])}
    assert len(partner_images) > 60
    rest = sampler(opened, partners=partners, start_step=13, start=Place(**mixed.place_of(13)))
    assert list(itertools.islice(rest, 17)) == draws[13:]


def images_of(data, crop: RandomCrop | None = None, skip: bool = False) -> StreamedImages:
    return StreamedImages(data.shape, data.ranges, data.geometry, crop, skip)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_change_a_bit(opened, workers: int) -> None:
    crop = RandomCrop(0, 0, 0.3, 4 / 3)
    alone, several = (
        list(loader(images_of(opened, crop), sampler(opened, total_steps=25), count, pin_memory=False))
        for count in (0, workers)
    )
    assert len(alone) == len(several) == 25
    for one, other in zip(alone, several, strict=True):
        assert one.cropped and other.cropped
        for name in ("images", "labels", "ids"):
            assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("crop", [None, RandomCrop(1, 4, 0.1, 4 / 3)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_images_are_prepared_as_those_that_are_decoded_live(kind: str, crop: RandomCrop | None) -> None:
    photos = [{"bytes": encoded(number, kind, (40 + number, 61)), "path": None} for number in range(9)]
    sizes = np.array([(40 + number, 61) for number in range(9)], dtype=np.int32)
    live = LiveImages(photos.__getitem__, (9, 24, 24, 3), sizes, np.full(9, kind == "JPEG"), {}, MIDDLE)
    rows = np.arange(9)
    expected = live[rows] if crop is None else live.crops(rows, crop, 5)
    draw = StreamDraw([Sample(number, photo, 0) for number, photo in enumerate(photos)], 5)
    batch = StreamedImages((24, 24, 3), {}, MIDDLE, crop, False).__getitems__(draw)
    assert np.array_equal(batch.images.numpy(), expected) and batch.cropped == (crop is not None)


def test_an_image_that_cannot_be_decoded_is_named_or_another_takes_its_place() -> None:
    samples = [Sample(n, {"bytes": encoded(n), "path": f"{n}.png"}, n % 3) for n in range(5)]
    samples[3] = Sample(3, {"bytes": b"no image", "path": "3.png"}, 0)
    for crop in (None, RandomCrop(0, 0, 0.3, 4 / 3)):
        with pytest.raises(UserError, match=r"^3\.png: not an image; give --skip-bad-images"):
            StreamedImages((8, 8, 3), {}, MIDDLE, crop, False).__getitems__(StreamDraw(samples, 0))
        batch = StreamedImages((8, 8, 3), {}, MIDDLE, crop, True).__getitems__(StreamDraw(samples, 0))
        assert batch.ids.tolist() == [0, 1, 2, 4, 4] and torch.equal(batch.images[3], batch.images[4])
    with pytest.raises(UserError, match="so it is with all 1"):
        StreamedImages((8, 8, 3), {}, MIDDLE, None, True).__getitems__(StreamDraw(samples[3:4], 0))


def test_what_is_tested_on_is_what_it_is_without_a_stream(opened, shards: Path) -> None:
    whole = load_images(str(shards))
    assert len(opened.train) == len(whole.train) == 120
    for name in ("val", "test"):
        streamed, usual = getattr(opened, name), getattr(whole, name)
        assert np.array_equal(streamed.arrays.images[streamed.ids], usual.arrays.images[usual.ids])
        assert np.array_equal(streamed.arrays.labels[streamed.ids], usual.arrays.labels[usual.ids])
    assert opened.class_names == whole.class_names == NAMES
    assert np.allclose(opened.mean, whole.mean) and np.allclose(opened.std, whole.std)  # all 120 are in the sample
    assert "duplicates_within_train" not in opened.notes and opened.notes["train_images"] == 120
    again = load_stream(str(shards))  # from the cache
    assert again.fingerprints() == opened.fingerprints()


class Ranged(http.server.SimpleHTTPRequestHandler):
    """A server of files that can be asked for a part of one, as object storage can."""

    def do_GET(self) -> None:
        asked, path = self.headers.get("Range"), Path(self.translate_path(self.path))
        if not asked or not path.is_file():
            return super().do_GET()
        start, end = asked.removeprefix("bytes=").split("-")
        content = path.read_bytes()
        part = content[int(start) : int(end or len(content)) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        return self.wfile.write(part)

    def do_HEAD(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return super().do_HEAD()
        self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(path.stat().st_size))
        return self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(shards: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranged, directory=shards.parent)) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_shards_are_streamed_from_a_server_as_from_disk(server: str, opened) -> None:
    remote = load_stream(f"{server}/numbered")
    assert len(remote.train) == 120 and remote.fingerprints() == opened.fingerprints()
    assert passes(sampler(remote), 1) == passes(sampler(opened), 1)


def test_tar_shards_are_streamed(tmp_path: Path, own_cache: Path) -> None:
    root, first = tmp_path / "tars", 0
    root.mkdir()
    for name, count in (("train-0", 20), ("train-1", 30), ("test-0", 10)):
        with tarfile.open(root / f"{name}.tar", "w") as tar:
            for number in range(first, first + count):
                for suffix, content in (("png", encoded(number)), ("cls", str(number % 3).encode())):
                    entry = tarfile.TarInfo(f"{number:05}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
        first += count
    with pytest.raises(UserError, match="does not say how many images train has: give --train-num-samples"):
        load_stream(f"file://{root}", label_column="cls")
    data = load_stream(f"file://{root}", label_column="cls", train_num_samples=50)
    assert data.class_names == ["0", "1", "2"] and len(data.test) == 10
    once = passes(sampler(data), 1)[0]
    assert sorted(image for _, image, _ in once) == list(range(50))
    assert all(label == image % 3 for _, image, label in once)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["ant", "bee"] * 10, None),
        (["ant", "bee"] * 9 + ["cow", None], "has the label cow, which neither its first 12 images have nor"),
    ],
)
def test_words_as_labels_are_the_classes_that_were_seen(
    labels, message, tmp_path: Path, own_cache: Path, monkeypatch
) -> None:
    monkeypatch.setattr("data.streams.source.SAMPLE", 12)
    root = tmp_path / "words"
    root.mkdir()
    write_shard(root / "train-0.parquet", range(20), labels, names=None)
    write_shard(root / "test-0.parquet", range(30, 40), ["ant", "bee"] * 5, names=None)
    data = load_stream(str(root))
    assert data.class_names == ["ant", "bee"]
    if message is None:
        assert sorted(label for _, _, label in passes(sampler(data), 1)[0]) == [0] * 10 + [1] * 10
    else:
        with pytest.raises(UserError, match=message):
            list(itertools.islice(sampler(data).samples(), 20))


def test_rows_without_a_label_are_passed_over(tmp_path: Path, own_cache: Path) -> None:
    root = tmp_path / "some"
    root.mkdir()
    write_shard(root / "train-0.parquet", range(20), [number % 3 if number % 4 else -1 for number in range(20)])
    write_shard(root / "test-0.parquet", range(30, 40))
    data = load_stream(str(root), skip_bad_images=True)
    assert sorted(image for _, image, _ in passes(sampler(data), 1)[0]) == [n for n in range(20) if n % 4]


OPTIONS = (
    "--cpu --track none --stream --shuffle-buffer 25 --batch-size 12 --epochs 3 --model-arg width=8 --ema 0.9 "
    "--augment flip,crop=1,mixup --mixed-precision no --checkpoint-every 3 --keep 20 --run-name run"
).split()


@pytest.mark.parametrize(("processes", "workers"), [(1, 2), (2, 0)])
def test_a_killed_run_goes_on_without_losing_or_repeating_an_image(
    shards: Path, tmp_path: Path, own_cache: Path, processes: int, workers: int
) -> None:
    def start(name: str, *more: str, **fault: object) -> list[int]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        options = [*OPTIONS, "--dataset", str(shards), "--workers", str(workers), "--output-dir", str(folder), *more]
        return train(options, processes, Fault(ledger=folder / "ledger", **fault))

    assert start("whole") == ([0] * processes, ANYTHING)
    codes, _ = start("killed", kill_after=17)
    assert codes == [-signal.SIGKILL] * processes
    codes, printed = start("killed", "--resume", "auto")
    assert codes == [0] * processes and "at step 15 of 30" in printed
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert ledger(killed, processes) == ledger(whole, processes)
    assert figures(killed) == figures(whole)
    for name in ("model", "ema", "optimizer"):
        file = Path("run", "checkpoints", "step-30", f"{name}.safetensors")
        assert (killed / file).read_bytes() == (whole / file).read_bytes()


def test_a_run_goes_on_with_another_number_of_processes_and_says_what_that_means(
    shards: Path, tmp_path: Path, own_cache: Path
) -> None:
    options = [*OPTIONS, "--dataset", str(shards), "--workers", "0", "--output-dir", str(tmp_path)]
    assert train(options, 2, Fault(kill_after=13))[0] == [-signal.SIGKILL] * 2
    codes, printed = train([*options, "--resume", "auto"], 1)
    assert codes == [0] and "the stream goes on at the start of the pass under way" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--shuffle-buffer 10", "--shuffle-buffer: of no use without --stream"),
        ("--stream --folds 3", "--folds: of no use with --stream"),
        ("--stream --limit-train 9 --val-fraction 0.1", "--limit-train, --val-fraction: of no use with --stream"),
        ("--stream --task multilabel", "not for --task multilabel"),
    ],
)
def test_options_that_need_all_of_train_are_refused(options: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_train(options.split())


def test_what_cannot_be_streamed_is_refused_in_a_line(tmp_path: Path, own_cache: Path) -> None:
    with pytest.raises(UserError, match="--stream is for parquet files and tar shards, which digits is not"):
        load_stream("digits")
    write_shard(tmp_path / "train-0.parquet", range(20))
    with pytest.raises(UserError, match="needs one to train on and another to test on"):
        load_stream(str(tmp_path))
    with pytest.raises(UserError, match="an address can only be streamed from: give --stream"):
        load_images("http://127.0.0.1:9/numbered")
    with pytest.raises(UserError, match="cannot be opened"):
        load_stream("http://127.0.0.1:9/numbered")
