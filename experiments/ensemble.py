"""The mean of several runs' predictions, tested as one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from common.console import say
from common.files import write_json
from engine import load
from engine.checkpoints import best_weights
from engine.held_out import check_same_test_images
from engine.runtime.sharing import from_one
from options.groups import TrainOptions
from tasks.classification.report import headline, test_metrics
from tasks.evaluate import predict


def report(args: TrainOptions, accelerator: Accelerator, group: Path, folders: Sequence[Path]) -> None:
    """Test the mean of the probabilities of the runs in `folders`; writes ensemble.json into `group` and prints it.

    The weights are those that each run kept, the views of an image those of its --tta.

    Args:
        args: of any of the runs.
    """
    data = load.load_data(args, accelerator)
    total = np.zeros((len(data.test), len(data.class_names)))
    labels = torch.from_numpy(data.test.arrays.labels[data.test.ids])
    for folder in folders:
        content = from_one(lambda path=folder / "best.pth": best_weights.load(path))
        check_same_test_images(str(folder / "best.pth"), content, data)
        model, task = best_weights.restore(content, str(folder / "best.pth"), accelerator.device)
        logits, _ = predict(model, task, data.test, accelerator, args.batch_size or 256)
        total += (logits.double() / task.temperature).softmax(1).numpy()
    mean = torch.from_numpy(total / len(folders))
    metrics = test_metrics(data.class_names, mean.float().numpy(), labels)
    if accelerator.is_main_process:
        write_json(group / "ensemble.json", {"runs": [folder.name for folder in folders], **metrics})
        say(f"ensemble of {len(folders)}: {headline(metrics)}")
