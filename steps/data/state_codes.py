"""Hidden states as codes: the sum of one vector from each of several codebooks, a byte each (arXiv 2211.00508, section 3.2).

Codebooks are fitted one after the other to what those before leave, by k-means; then each code of a frame is chosen again,
given all others, as long as that brings the sum nearer. Channels are scaled to one variance for both, so that a few large ones do
not use up the codes.
"""

from dataclasses import dataclass

import numpy as np

# vectors of a codebook: what a byte counts
ENTRIES = 256
# frames that codebooks are fitted to, and others by which what they lose is measured
SAMPLE_FRAMES, CHECK_FRAMES = 16_384, 4096
KMEANS_ROUNDS, CHOICES = 10, 3


@dataclass(frozen=True)
class Codebooks:
    """Vectors, (M, 256, C) float16, and 1 / deviation of each channel, (C,) float32, by which `encode` measures distances."""

    vectors: np.ndarray
    scale: np.ndarray

    def encode(self, states: np.ndarray) -> np.ndarray:
        """Args: states (T, C).  Returns: (T, M) uint8."""
        books = self.vectors.astype(np.float32) * self.scale
        target = states.astype(np.float32) * self.scale
        codes = np.zeros((len(states), len(books)), np.uint8)
        left = target.copy()
        for number, book in enumerate(books):
            codes[:, number] = nearest(left, book)
            left -= book[codes[:, number]]
        for _ in range(CHOICES):
            for number, book in enumerate(books):
                left += book[codes[:, number]]
                codes[:, number] = nearest(left, book)
                left -= book[codes[:, number]]
        return codes

    def lost(self, states: np.ndarray) -> float:
        """Share of the variance of states (T, C), channels counted alike, that their codes do not tell."""
        left = (states - decode(self.vectors, self.encode(states))) * self.scale
        spread = (states - states.mean(axis=0)) * self.scale
        return float((left**2).sum() / max(float((spread**2).sum()), 1e-12))


def decode(vectors: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Args: vectors (M, 256, C); codes (T, M) uint8.  Returns: (T, C) float32."""
    states = np.zeros((len(codes), vectors.shape[2]), np.float32)
    for book, column in zip(vectors, codes.T, strict=True):
        states += book[column]
    return states


def spread_order(count: int) -> list[int]:
    """The numbers from 0 to count - 1 in such an order that the first few, however many, lie evenly: bit-reversed."""
    width = max(1, count - 1).bit_length()
    return sorted(range(count), key=lambda number: f"{number:0{width}b}"[::-1])


def fit(states: np.ndarray, count: int) -> Codebooks:
    """Codebooks for states (T, C) float32, T at least 1. Args: count: M. Deterministic."""
    rng = np.random.default_rng(0)
    deviation = states.std(axis=0)
    # a channel that never changes needs no codes
    scale = (1 / np.where(deviation > 1e-6 * (1 + np.abs(states).max(axis=0)), deviation, np.inf)).astype(np.float32)
    used = scale > 0
    mean = states.mean(axis=0)
    left = ((states - mean) * scale).astype(np.float32)
    books = []
    for _ in range(count):
        book = kmeans(left, rng)
        left -= book[nearest(left, book)]
        books.append(np.where(used, book * np.where(used, deviation, 1), 0))
    # the first holds the mean, too
    books[0] = books[0] + mean
    return Codebooks(np.stack(books).astype(np.float16), scale)


def kmeans(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """256 centres of points (T, C), (256, C) float32. A centre that nothing is near to goes to a point drawn anew."""
    centres = points[rng.choice(len(points), ENTRIES, replace=len(points) < ENTRIES)].copy()
    for _ in range(KMEANS_ROUNDS):
        own = nearest(points, centres)
        counts = np.bincount(own, minlength=ENTRIES)
        met = np.flatnonzero(counts)
        centres[met] = np.add.reduceat(points[own.argsort(kind="stable")], (counts.cumsum() - counts)[met])
        centres /= counts.clip(1)[:, None]
        empty = counts == 0
        centres[empty] = points[rng.choice(len(points), int(empty.sum()))]
    return centres.astype(np.float32)


def nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Number of the nearest centre of each point, (T,) int64."""
    return ((centres**2).sum(axis=1) - 2 * points @ centres.T).argmin(axis=1)
