"""What the block does to a photograph, as a picture."""

from pathlib import Path

import numpy as np

import se_numpy
from se_spec import SESpec

from .cases import revealing_parameters
from .files import replacing
from .photographs import photographs, to_patches, to_pixels


def save_gates(path: Path) -> None:
    """Each photograph beside it scaled by its gates, and the gates as bars; written whole or not at all."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    images = photographs()
    x, spec = to_patches(images), SESpec.preset("paper", 192)
    parameters = revealing_parameters(x, spec, np.random.default_rng(3))
    g = se_numpy.excitation(x, spec, parameters, data_format="channels_last")
    scaled = to_pixels(se_numpy.squeeze_excitation(x, spec, parameters, data_format="channels_last"))

    figure, axes = pyplot.subplots(len(images), 3, figsize=(15, 7), width_ratios=(1, 1, 1.3), layout="constrained")
    for row, image, after, gates in zip(axes, images, scaled, g, strict=True):
        row[0].imshow((image + 1) / 2)
        row[0].set_title("photograph, 53 × 80 patches of 8 × 8")
        row[1].imshow(np.clip((after + 1) / 2, 0, 1))
        row[1].set_title("each of its 192 channels times its gate")
        for colour, name in enumerate(("red", "green", "blue")):
            row[2].bar(64 * colour + np.arange(64), gates[colour::3], width=1.0, color=f"tab:{name}", label=name)
        row[2].set(title="the gates, one per channel", ylim=(0, 1), xlabel="place in the patch, per colour", xticks=[])
        row[2].axhline(0.5, color="black", linewidth=0.5)
        for panel in row[:2]:
            panel.axis("off")
    figure.suptitle(f"{spec}, random weights: what a photograph contains decides which of its channels are kept")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=60, format="png")
    pyplot.close(figure)
