"""Real images that scikit-learn ships: handwritten digits, with a small network for them, and two photographs."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from se_spec import NetworkSpec, network
from se_spec.networks import Residual

HELD_OUT = 500
BATCH = 32
PATCH = 8


class Digits(NamedTuple):
    """Images (N, 8, 8, 1) in [-1, 1] and labels (N,), for training and held out."""

    x: np.ndarray
    labels: np.ndarray
    x_held_out: np.ndarray
    labels_held_out: np.ndarray


def load_digits(dtype: str = "float32") -> Digits:
    """Load the 1,797 images that scikit-learn ships, with a fixed split.

    >>> x, labels, x_held_out, labels_held_out = load_digits()
    >>> x.shape, x_held_out.shape, np.bincount(labels_held_out).tolist()
    ((1297, 8, 8, 1), (500, 8, 8, 1), [47, 51, 49, 57, 48, 52, 47, 52, 53, 44])
    """
    from sklearn import datasets

    given = datasets.load_digits()
    x, labels = (given.images[..., None] / 8.0 - 1.0).astype(dtype), given.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    train, held_out = order[HELD_OUT:], order[:HELD_OUT]
    return Digits(x[train], labels[train], x[held_out], labels[held_out])


def small_network(**overrides: Any) -> NetworkSpec:
    """Make SE-ResNet-8 for 8 x 8 images: SE-ResNet-20 with one unit per stage and reduction 4.

    >>> net = small_network()
    >>> net.parameter_count(), net.macs(), net.added_by_se()
    (80442, 766208, (2688, 2688))
    """
    net = network("se_resnet20", channels=1, input_size=8, se={"reduction": 4})
    assert isinstance(net.body, Residual)
    return net.replace(stages=[replace(stage, units=1) for stage in net.body.stages], **overrides)


def draw_batches(
    x: np.ndarray, labels: np.ndarray, steps: int, seed: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ``steps`` batches; each epoch has a new order, and images that do not fill a batch are left out."""
    random, order = np.random.default_rng(seed), np.zeros(0, np.int64)
    for _ in range(steps):
        if len(order) < BATCH:
            order = random.permutation(len(x))
        chosen, order = order[:BATCH], order[BATCH:]
        yield x[chosen], labels[chosen]


def load_photographs() -> np.ndarray:
    """Load the two photographs that scikit-learn ships, (2, 424, 640, 3), in [-1, 1], without the last 3 rows."""
    from sklearn.datasets import load_sample_images

    images = np.stack(load_sample_images().images).astype(np.float64)
    height, width = (size // PATCH * PATCH for size in images.shape[1:3])
    return images[:, :height, :width] / 127.5 - 1.0


def to_patches(images: np.ndarray) -> np.ndarray:
    """Convert pixels (N, H, W, 3) to a feature map (N, H/8, W/8, 192): a channel is a pixel of the patch and a colour.

    >>> to_patches(np.zeros((2, 424, 640, 3))).shape
    (2, 53, 80, 192)
    """
    n, height, width, colours = images.shape
    cut = images.reshape(n, height // PATCH, PATCH, width // PATCH, PATCH, colours)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(n, height // PATCH, width // PATCH, -1)


def to_pixels(patches: np.ndarray) -> np.ndarray:
    """Convert a feature map of ``to_patches`` back to pixels.

    >>> images = np.arange(2 * 16 * 24 * 3.0).reshape(2, 16, 24, 3)
    >>> bool((to_pixels(to_patches(images)) == images).all())
    True
    """
    n, rows, columns, _ = patches.shape
    cut = patches.reshape(n, rows, columns, PATCH, PATCH, -1).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(n, rows * PATCH, columns * PATCH, -1)
