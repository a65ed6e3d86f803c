"""Images that look alike: a perceptual hash of each, and the pairs whose hashes differ in few bits.

The hash is pHash's (C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010): which of an
image's 64 lowest frequencies exceed their median. It is done here on a batch of decoded images at once; the library
imagehash takes PIL images one at a time and brings PyWavelets with it.
"""

from itertools import pairwise

import numpy as np

SIDE = 8  # frequencies in each direction: 64 bits
CHUNK_BYTES = 2**26  # of float32 pixels at once


def perceptual_hashes(images: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """uint64 (M,) of the images `ids`, int64 (M,), of uint8 (N, H, W, C): alike for those that look alike.

    Size, contrast and colour make little difference, moving or mirroring an image makes a large one.
    """
    _, height, width, channels = images.shape
    down, across = _cosines(height), _cosines(width)
    at_once = max(1, CHUNK_BYTES // (4 * height * width * channels))
    hashes = []
    for start in range(0, len(ids), at_once):
        grey = np.asarray(images[ids[start : start + at_once]]).mean(3, dtype=np.float32)
        frequencies = (down @ grey @ across.T).reshape(len(grey), SIDE**2)
        bits = frequencies > np.median(frequencies, axis=1, keepdims=True)
        hashes.append(np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64))
    return np.concatenate(hashes) if hashes else np.zeros(0, dtype=np.uint64)


def _cosines(size: int) -> np.ndarray:
    """The lowest basis functions of the type-II cosine transform, float32 (SIDE, size)."""
    return np.cos(np.pi / size * np.outer(np.arange(SIDE), np.arange(size) + 0.5)).astype(np.float32)


def near_pairs(hashes: np.ndarray, radius: int) -> np.ndarray:
    """All pairs of different hashes, of distinct uint64 (M,), that differ in at most `radius` bits.

    Multi-index hashing (Norouzi, Punjani, Fleet 2012): of radius + 1 pieces of the 64 bits, two such hashes have one in
    common, so that only those that do are compared.

    Returns:
        int64 (P, 2) of positions, the lower first, sorted; each pair once.
    """
    edges = np.linspace(0, 64, radius + 2).astype(np.int64)
    found = [np.zeros((0, 2), dtype=np.int64)]
    for low, high in pairwise(edges):
        piece = (hashes >> np.uint64(low)) & np.uint64(2 ** int(high - low) - 1)
        order = np.argsort(piece, kind="stable")
        found.extend(_equal_pieces(piece[order], hashes[order], order, radius))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _equal_pieces(piece: np.ndarray, hashes: np.ndarray, order: np.ndarray, radius: int) -> list[np.ndarray]:
    """The near pairs among those that are equal in `piece`, by which all is sorted; each is compared with those after.

    Compared are all with the next one, then all with the next but one, and so on, which leaves fewer each time.
    """
    found = []
    first, step = np.arange(len(piece) - 1), 1
    while len(first):
        first = first[piece[first] == piece[first + step]]
        near = first[np.bitwise_count(hashes[first] ^ hashes[first + step]) <= radius]
        found.append(np.stack([order[near], order[near + step]], axis=1))
        step += 1
        first = first[first + step < len(piece)]
    return found
