"""Pictures of what SE does: to a photograph, to digits that a network has learned, and to images in a user's model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import se_numpy
from se_conformance.cases import revealing_parameters
from se_conformance.files import write_atomically
from se_spec import InputError, SESpec
from se_spec.records import Record

from .datasets import load_photographs, to_patches, to_pixels

MOST_BLOCKS, MOST_IMAGES = 5, 4
"""Blocks and images that are drawn beside each other."""


def save_pictures(
    folder: Path,
    records: Mapping[str, Record] | Mapping[str, np.ndarray],
    *,
    labels: np.ndarray | None = None,
    images: np.ndarray | None = None,
) -> list[Path]:
    """Draw what the SE blocks of a model do to a batch; each picture is written atomically.

    Args:
        folder: where the pictures are written; made if it is not there.
        records: what ``record(model, images)`` of any framework returns; or ``gates``, then without photographs.
        labels: the class of each sample, (N,), for the pictures of gates per class.
        images: the images, (N, H, W, 1 or 3), in any range, for the picture of what each block lets through.

    Returns:
        The files: ``gates_per_layer.png`` and ``gates_histogram.png``; ``gates_per_class.png`` and
        ``channels_per_class.png`` if there are labels; ``photographs.png`` if there are images and records of maps.

    Raises:
        InputError: there is no record, or labels or images are not as many as the samples.

    Example:
        >>> import tempfile
        >>> gates = {"se": np.linspace(0.0, 1.0, 24).reshape(4, 6)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in save_pictures(Path(folder), gates, labels=np.array([0, 0, 1, 1]))]
        ['gates_per_layer.png', 'gates_histogram.png', 'gates_per_class.png', 'channels_per_class.png']
    """
    gates = {name: entry.gates if isinstance(entry, Record) else entry for name, entry in records.items()}
    _check_pictures(gates, labels, images)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "gates_per_layer.png", folder / "gates_histogram.png"]
    save_gates_per_layer(paths[0], gates)
    save_histograms(paths[1], gates)
    if labels is not None:
        paths += [folder / "gates_per_class.png", folder / "channels_per_class.png"]
        last = list(gates)[-1]
        save_gates_per_class(paths[-2], {name: gates[name] for name in _choose(list(gates), 2)}, labels)
        save_channels_per_class(paths[-1], gates[last], labels, last)
    maps = {name: entry for name, entry in records.items() if isinstance(entry, Record) and entry.before.ndim == 3}
    if images is not None and maps:
        paths.append(folder / "photographs.png")
        save_photographs(paths[-1], images, maps)
    return paths


def _check_pictures(gates: dict[str, np.ndarray], labels: np.ndarray | None, images: np.ndarray | None) -> None:
    if not gates:
        raise InputError("there is no record of a block; record(model, images) makes them")
    samples = {len(g) for g in gates.values()}
    for what, values in (("labels", labels), ("images", images)):
        if values is not None and {len(values)} != samples:
            raise InputError(
                f"{len(values)} {what} for {', '.join(map(str, sorted(samples)))} samples; expected as many"
            )


def _choose(names: list[str], most: int) -> list[str]:
    """Choose names at equal distances, the first and the last among them.

    >>> _choose(list("abcdefg"), 3), _choose(["a"], 3)
    (['a', 'd', 'g'], ['a'])
    """
    places = np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int)
    return [names[place] for place in places]


def save_gates_per_layer(path: Path, gates: Mapping[str, np.ndarray]) -> None:
    """Draw, for each block, between which values the gates of its channels lie, averaged over the batch.

    Args:
        path: the PNG file to write.
        gates: maps each block's name to its gates, (N, C).
    """
    with _figure(path, 1, 1, (max(6.5, 0.45 * len(gates)), 4.5)) as (_, panel):
        panel.boxplot([g.mean(0) for g in gates.values()], whis=(0, 100), medianprops={"color": "C0"})
        panel.set_xticks(range(1, len(gates) + 1), list(gates), rotation=90, fontsize=7)
        panel.set(title="gates of each block's channels: least, quartiles, largest", ylabel="mean gate over the batch")


def save_histograms(path: Path, gates: Mapping[str, np.ndarray]) -> None:
    """Draw, for each block, how often its gates have which value in a batch.

    Args:
        path: the PNG file to write.
        gates: maps each block's name to its gates, (N, C).
    """
    columns = min(4, len(gates))
    rows = -(-len(gates) // columns)
    with _figure(path, rows, columns, (3.2 * columns, 2.2 * rows), sharex=True, squeeze=False) as (_, axes):
        low, high = min(float(g.min()) for g in gates.values()), max(float(g.max()) for g in gates.values())
        for panel, (name, g) in zip(axes.flat, gates.items(), strict=False):
            panel.hist(g.ravel(), bins=40, range=(min(0.0, low), max(1.0, high)), color="C0")
            panel.set_title(name, fontsize=8)
            panel.set_yticks([])
        for panel in axes.flat[len(gates) :]:
            panel.axis("off")


def save_photographs(path: Path, images: np.ndarray, records: Mapping[str, Record]) -> None:
    """Draw images, and beside each how strong the maps of some blocks are at each position before and after.

    Args:
        path: the PNG file to write.
        images: shape (N, H, W, 1 or 3), in any range; the first few are drawn.
        records: of blocks with two spatial axes.
    """
    names, count = _choose(list(records), MOST_BLOCKS), min(MOST_IMAGES, len(images))
    low, high = float(images.min()), float(images.max())
    size = 2 + 3.2 * len(names), 2.1 * count
    with _figure(path, count, 1 + 2 * len(names), size, squeeze=False) as (_, axes):
        for row, panels in enumerate(axes):
            image = (images[row] - low) / ((high - low) or 1.0)
            panels[0].imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray")
            for place, name in enumerate(names):
                _draw_maps(panels[1 + 2 * place :], records[name], row, name)
            for panel in panels:
                panel.axis("off")


def _draw_maps(panels: Any, record: Record, row: int, name: str) -> None:
    """Draw a sample's map before and after a block, in the same colours."""
    limit = float(record.before[row].max())
    for panel, values, when in zip(panels, (record.before, record.after), ("before", "after"), strict=False):
        panel.imshow(values[row], cmap="viridis", vmin=0.0, vmax=limit)
        panel.set_title(f"{name}\n{when}" if row == 0 else "", fontsize=7)


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
            for index, label in enumerate(np.unique(labels)):
                panel.plot(channels, g[labels == label].mean(0), color=f"C{index}", linewidth=1.0, label=str(label))
            panel.plot(channels, g.mean(0), color="black", linewidth=2.0, label="all")
            panel.set(title=f"{name}: mean gate of each channel, per class", xlim=(0, max(1, g.shape[1] - 1)))
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
            title=f"{name}: which channels a class opens (red) and closes (blue)", xlabel="channel", ylabel="class"
        )
        panel.set_xticks(range(len(order)), order, rotation=90, fontsize=7)
        panel.set_yticks(range(len(above)), [str(label) for label in np.unique(labels)])
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
