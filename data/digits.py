"""The data set that is always there: small scans of digits, which come with scikit-learn."""

import numpy as np
from PIL import Image

from data import decode_all
from data.arrays import Arrays, Decoded
from data.decode import to_array
from data.geometry import Geometry
from data.subsets import few_ids


def load(image_size: int | None, geometry: Geometry, rows: int | None) -> Decoded:
    """scikit-learn's 1,797 scans: 8x8 pixels in 0..16, from the UCI "Optical Recognition of Handwritten Digits"."""
    from sklearn.datasets import load_digits  # takes a second

    digits = load_digits()
    chosen = slice(None) if rows is None else few_ids(digits.target, rows)
    images = (digits.images[chosen] * (255 / 16)).round().astype(np.uint8)[..., None]
    sizes = {images.shape[1:3]: len(images)}
    if image_size is not None:
        scans, size = [Image.fromarray(scan[..., 0]) for scan in images], (image_size, image_size)
        images = np.stack([to_array(scan, 1, size, None, geometry) for scan in scans])
    labels = digits.target[chosen].astype(np.int64)
    names = tuple(f"digits[{number}]" for number in np.arange(len(digits.target))[chosen])
    splits = {"train": Arrays(images, labels, *decode_all.describe(images), names=names)}
    geometry = geometry if image_size is not None else Geometry(geometry.fit)
    return Decoded(splits, [str(name) for name in digits.target_names], [], {}, sizes, geometry)
