"""Preprocessing of images for each system's networks; with another one, the right weights give wrong answers.

The facts are typed from the sources that are named; where a source leaves one to its caller, the entry says so.
"""

from dataclasses import dataclass, replace

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation for RGB between 0 and 1."""


@dataclass(frozen=True)
class Preprocessing:
    """The steps from a decoded image to a network's input: ``(x - mean) / std`` per channel.

    Args:
        channels: order of the channels, ``"RGB"`` or ``"BGR"``.
        high: largest value of a decoded image; the smallest is 0.
        crop: side of the square cut out of the middle, in pixels.
        classes: order of the network's classes.
        source: where the facts were read, and what is particular.
        mean, std: in the order of ``channels``; None where they depend on the data, or the network normalises itself.
        resize: length of the short side before the crop, in pixels; None where nothing is resized.
    """

    channels: str
    high: int
    crop: int
    classes: str
    source: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | None = None

    def __str__(self) -> str:
        cut = f"{self.crop} x {self.crop}" + (f" out of a short side of {self.resize}" if self.resize else "")
        scaled = f"({self.channels} in 0..{self.high} - {self.mean}) / {self.std}"
        if self.mean is None:
            scaled = f"{self.channels} in 0..{self.high}"
        return f"{scaled}, {cut}; {self.classes}; {self.source}"


_SYNSETS, _CIFAR_CLASSES = "ImageNet's classes sorted by synset", "CIFAR-10's order"
_AUTHORS = Preprocessing(
    "BGR",
    255,
    224,
    "ILSVRC2017's order of classes, which is not the usual one",
    "hujie-frank/SENet 0262d43",
    mean=(104.0, 117.0, 123.0),
    std=(1.0, 1.0, 1.0),
    resize=256,
)
_TIMM = Preprocessing(
    "RGB", 1, 224, _SYNSETS, "timm 1.0.31, pretrained configuration", IMAGENET_MEAN, IMAGENET_STD, resize=256
)
_MOSKOMULE = "moskomule/senet.pytorch 8cb2669; normalised as its caller likes"
_PREPROCESSING = {
    "timm.seresnet50": replace(_TIMM, source="timm 1.0.31, a1_in1k; bicubic, 0.95 of the side", resize=236),
    "timm.": _TIMM,
    "shicai.": Preprocessing(
        "BGR",
        255,
        225,
        _SYNSETS,
        "shicai/SENet-Caffe d577a92; the factor is 0.017; 225 so that floor and ceiling agree",
        mean=(103.94, 116.78, 123.68),
        std=(1 / 0.017,) * 3,
        resize=256,
    ),
    "tensorpack.": Preprocessing(
        "BGR",
        1,
        224,
        _SYNSETS,
        "tensorpack 1547a54, examples/ResNet; bicubic; normalised in its graph",
        mean=IMAGENET_MEAN[::-1],
        std=IMAGENET_STD[::-1],
        resize=256,
    ),
    "mxnet.": Preprocessing(
        "RGB", 255, 224, "its record files' order", "bruinxiong/SENet.mxnet 5f0b469; input_bn normalises"
    ),
    "moskomule.": Preprocessing("RGB", 1, 224, _SYNSETS, _MOSKOMULE),
    "taki.": Preprocessing(
        "RGB",
        255,
        32,
        _CIFAR_CLASSES,
        "taki0112/SENet-Tensorflow 41b12c4; per channel, by the mean and deviation of the split itself, tests too",
    ),
    "chainer.": Preprocessing(
        "RGB",
        255,
        32,
        _CIFAR_CLASSES,
        "nutszebra/SENets 2a5a0b3; each image (x - mean) / sqrt(variance + 10), over all channels together",
    ),
}
_CIFAR = Preprocessing("RGB", 1, 32, _CIFAR_CLASSES, _MOSKOMULE)
_CIFAR_NETWORKS = tuple(f"{se}resnet{depth}" for se in ("se_", "") for depth in (20, 32, 56))


def preprocessing(network: str) -> Preprocessing:
    """Look up the preprocessing of a named network.

    >>> preprocessing("se_resnet50").channels, preprocessing("timm.seresnet50").mean[0]
    ('BGR', 0.485)
    """
    if network in _CIFAR_NETWORKS:
        return _CIFAR
    return next((facts for prefix, facts in _PREPROCESSING.items() if network.startswith(prefix)), _AUTHORS)
