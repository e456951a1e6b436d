"""Pictures of what SE does to a photograph and to the digits that a network has learned."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import se_numpy
from se_conformance.cases import revealing_parameters
from se_conformance.files import write_atomically
from se_spec import SESpec

from .datasets import load_photographs, to_patches, to_pixels


def save_gates(path: Path) -> None:
    """Draw each photograph, the photograph scaled by its gates, and the gates as bars; writes atomically."""
    images = load_photographs()
    x, spec = to_patches(images), SESpec.preset("paper", 192)
    parameters = revealing_parameters(x, spec, np.random.default_rng(3))
    g = se_numpy.excitation(x, spec, parameters, data_format="channels_last")
    scaled = to_pixels(se_numpy.squeeze_excitation(x, spec, parameters, data_format="channels_last"))

    with _figure(path, len(images), 3, (15, 7), width_ratios=(1, 1, 1.3)) as (figure, axes):
        for row, image, after, gates in zip(axes, images, scaled, g, strict=True):
            row[0].imshow((image + 1) / 2)
            row[0].set_title("photograph, 53 × 80 patches of 8 × 8")
            row[1].imshow(np.clip((after + 1) / 2, 0, 1))
            row[1].set_title("each of its 192 channels times its gate")
            for colour, name in enumerate(("red", "green", "blue")):
                places = 64 * colour + np.arange(64)
                row[2].bar(places, gates[colour::3], width=1.0, color=f"tab:{name}", label=name)
            row[2].set(
                title="the gates, one per channel", ylim=(0, 1), xlabel="place in the patch, per colour", xticks=[]
            )
            row[2].axhline(0.5, color="black", linewidth=0.5)
            for panel in row[:2]:
                panel.axis("off")
        figure.suptitle(f"{spec}, random weights: what a photograph contains decides which of its channels are kept")


def save_gates_per_class(path: Path, gates: dict[str, np.ndarray], labels: np.ndarray) -> None:
    """Draw a panel per block: the mean gate of each channel, a line per class, as in section 7.2 of the paper.

    Args:
        path: the PNG file to write.
        gates: maps each block's name to its gates, (N, C).
        labels: the class of each sample, (N,).
    """
    with _figure(path, len(gates), 1, (12, 3.6 * len(gates)), sharey=True) as (_, axes):
        for panel, (name, g) in zip(np.atleast_1d(axes), gates.items(), strict=True):
            channels = np.arange(g.shape[1])
            for label in np.unique(labels):
                panel.plot(channels, g[labels == label].mean(0), color=f"C{label}", linewidth=1.0, label=str(label))
            panel.plot(channels, g.mean(0), color="black", linewidth=2.0, label="all")
            panel.set(title=f"{name}: mean gate of each channel, per digit", xlim=(0, g.shape[1] - 1))
        panel.set_xlabel("channel")
        panel.legend(ncol=11, loc="lower center", bbox_to_anchor=(0.5, -0.42), frameon=False)


def save_channels_per_class(path: Path, g: np.ndarray, labels: np.ndarray, name: str) -> None:
    """Draw which channels a class opens and closes: the mean gate less the channel's mean over all classes.

    Channels are sorted by the class that opens them most. Arguments as ``save_gates_per_class``; g is (N, C).
    """
    above = above_average(g, labels)
    order = np.lexsort((-above.max(0), above.argmax(0)))
    with _figure(path, 1, 1, (14, 4)) as (figure, panel):
        limit = abs(above).max()
        image = panel.imshow(above[:, order], cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        panel.set(
            title=f"{name}: which channels a digit opens (red) and closes (blue)", xlabel="channel", ylabel="digit"
        )
        panel.set_xticks(range(len(order)), order, rotation=90, fontsize=7)
        panel.set_yticks(range(len(above)))
        figure.colorbar(image, label="gate, less the channel's mean")


def above_average(g: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute the mean gate per class and channel, less the channel's mean over the classes.

    >>> above_average(np.array([[0.1, 0.5], [0.3, 0.5], [0.6, 0.5]]), np.array([0, 0, 1])).round(2)
    array([[-0.2,  0. ],
           [ 0.2,  0. ]])
    """
    means = np.stack([g[labels == label].mean(0) for label in np.unique(labels)])
    return means - means.mean(0)


@contextmanager
def _figure(
    path: Path, rows: int, columns: int, size: tuple[float, float], **options: Any
) -> Iterator[tuple[Any, Any]]:
    """Yield a figure and its panels, and writes it atomically when the with block ends."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(rows, columns, figsize=size, layout="constrained", **options)
    try:
        yield figure, panels
        with write_atomically(path) as temporary:
            figure.savefig(temporary, dpi=60, format="png")
    finally:
        pyplot.close(figure)
