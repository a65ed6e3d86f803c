"""An export from end to end: every format is written into a folder, read back from it, and held to the model."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common.errors import UserError
from common.files import write_atomically
from common.hub import local_file
from data.dataset import DataSplits
from deploy import check, formats, weights_folder
from deploy.classifier import Classifier, Views, build_classifier
from deploy.load import load, of_module
from deploy.pictures import Batch, of_files, of_subset
from deploy.quantize import quantize
from options.export import ExportOptions
from tasks.classification.task import Classification

INT8 = "model-int8.onnx"
Answers = list[tuple[np.ndarray, np.ndarray | None]]  # as `check.compare` takes them


@dataclass
class Job:
    """What is exported, and what it is checked by.

    Attributes:
        args: the options.
        content: of best.pth.
        model, task: restored from it, on the CPU.
        paths: of the images of --check.
        data: the run's data set; None where --check names images and nothing is calibrated.
        batch_size: of the check.
        unreadable: a line for each file of `paths` that cannot be read.
    """

    args: ExportOptions
    content: dict
    model: nn.Module
    task: Classification
    paths: list[Path]
    data: DataSplits | None
    batch_size: int
    unreadable: list[str] = field(default_factory=list)

    def run(self, folder: Path) -> list[check.Result]:
        """Write all that is asked for into `folder`; returns what the check found, first of the model itself.

        Raises:
            UserError: the model does not lend itself to a format, or none of the images to check by can be read.
            OSError: no room or no right to write.
        """
        self.model.eval()
        classifier = build_classifier(self.model, self.task)
        expected = [
            (
                self.answer(batch.images),
                None if batch.of_originals is None else self.answer(batch.of_originals),
            )
            for batch in self.batches(self.unreadable)
        ]
        if not expected:
            raise UserError(f"--check {self.args.check[0]}: no image can be read there: {self.unreadable[0]}")
        results = [self.own_row(expected)]
        for format in self.args.format:
            if format == weights_folder.FOLDER:
                results.append(self.safetensors(folder, classifier, expected))
                continue
            path = folder / formats.FILE_NAMES[format]
            data = formats.encode(format, classifier, self.task.class_names)
            write_atomically(path, lambda staged, data=data: staged.write_bytes(data))
            results.append(self.row(path, expected))
        if self.args.int8:
            results.append(self.int8(folder, expected))
        return results

    def answer(self, images: np.ndarray) -> np.ndarray:
        """The model's own probabilities, float32 (B, K), of uint8 (B, h, w, C): computed as infer.py does."""
        with torch.no_grad():
            logits = self.task.predict(self.model, torch.from_numpy(images))
            return self.task.probabilities(logits).numpy()

    def batches(self, unreadable: list[str] | None = None) -> Iterator[Batch]:
        """The pictures to check by, read anew each time; `unreadable` gets a line for each that cannot be."""
        if self.paths:
            return of_files(self.paths, self.task, self.batch_size, [] if unreadable is None else unreadable)
        return of_subset(self.data.test, self.task, self.batch_size, self.args.limit_test)

    def own_row(self, expected: Answers) -> check.Result:
        """The first line of the table."""
        path = local_file(self.args.weights, "--weights")
        prepared = (Batch(batch.images, batch.images, batch.labels) for batch in self.batches())
        alone = [(answers, None) for answers, _ in expected]
        return check.compare(path.name, path.stat().st_size, self.answer, prepared, alone)

    def row(self, path: Path, expected: Answers, *, held: bool = True) -> check.Result:
        """The line of a file that can be run by itself."""
        predict = load(path).predict
        return check.compare(path.name, path.stat().st_size, predict, self.batches(), expected, held=held)

    def safetensors(self, folder: Path, classifier: Classifier, expected: Answers) -> check.Result:
        """Write the folder of safetensors, and run the model that is read back from it."""
        place = folder / weights_folder.FOLDER
        model = weights_folder.write(place, self.content, self.model, self.task)
        again = Classifier(Views(model, self.task), classifier.prepare, classifier.temperature, classifier.input_shape)
        size = sum(path.stat().st_size for path in place.iterdir())
        return check.compare(f"{place.name}/", size, of_module(again.eval()), self.batches(), expected)

    def int8(self, folder: Path, expected: Answers) -> check.Result:
        """Quantize the ONNX file in `folder`."""
        train = of_subset(self.data.train, self.task, self.batch_size, self.args.calibrate)
        quantize(folder / formats.FILE_NAMES["onnx"], folder / INT8, (batch.pictures for batch in train))
        return self.row(folder / INT8, expected, held=False)
