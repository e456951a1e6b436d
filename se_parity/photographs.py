"""Two photographs as feature maps: real input that an installed package ships."""

import numpy as np

PATCH = 8


def photographs() -> np.ndarray:
    """The two that scikit-learn ships, (2, 424, 640, 3), floats in [-1, 1]; the last 3 rows do not fill a patch."""
    from sklearn.datasets import load_sample_images

    images = np.stack(load_sample_images().images).astype(np.float64)
    height, width = (size // PATCH * PATCH for size in images.shape[1:3])
    return images[:, :height, :width] / 127.5 - 1.0


def to_patches(images: np.ndarray) -> np.ndarray:
    """Pixels (N, H, W, 3) as a feature map (N, H/8, W/8, 192): a channel is a place in the patch and a colour.

    >>> to_patches(np.zeros((2, 424, 640, 3))).shape
    (2, 53, 80, 192)
    """
    n, height, width, colours = images.shape
    cut = images.reshape(n, height // PATCH, PATCH, width // PATCH, PATCH, colours)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(n, height // PATCH, width // PATCH, -1)


def to_pixels(patches: np.ndarray) -> np.ndarray:
    """The inverse of ``to_patches``.

    >>> images = np.arange(2 * 16 * 24 * 3.0).reshape(2, 16, 24, 3)
    >>> bool((to_pixels(to_patches(images)) == images).all())
    True
    """
    n, rows, columns, _ = patches.shape
    cut = patches.reshape(n, rows, columns, PATCH, PATCH, -1).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(n, rows * PATCH, columns * PATCH, -1)
