"""Layouts of networks: how each system names the parameters.

The sources are the repositories at the commits of ``se_spec.networks.catalogue``. MatConvNet's names follow vlfeat's
import-caffe.py, saveobj of its DagNN and pytorch-mcn's reader; no file of its author was seen.
"""

from .base import FRAMEWORK, PEER, REFERENCE, TYPED, Extra, Layout, Split, TensorRule

COUNTER = Extra("{m}.num_batches_tracked")


def _torch(projection: str) -> dict[str, TensorRule]:
    return {
        "conv.weight": TensorRule("{m}.weight", "OIHW"),
        "conv.bias": TensorRule("{m}.bias"),
        "norm.scale": TensorRule("{m}.weight"),
        "norm.offset": TensorRule("{m}.bias"),
        "norm.mean": TensorRule("{m}.running_mean"),
        "norm.variance": TensorRule("{m}.running_var"),
        "dense.weight": TensorRule("{m}.weight", "OI"),
        "dense.bias": TensorRule("{m}.bias"),
        "se.weight": TensorRule("{m}.weight", projection),
        "se.bias": TensorRule("{m}.bias"),
    }


def _units(unit: str, names: dict[str, str]) -> dict[str, str | Split]:
    """Prefix the modules of every unit with the unit's name, canonical and the system's."""
    return {f"stage{{s}}.block{{b}}.{canonical}": unit + name for canonical, name in names.items()}


_TORCHVISION = {
    "conv{n}": "conv{n}",
    "bn{n}": "bn{n}",
    "shortcut.conv": "downsample.0",
    "shortcut.bn": "downsample.1",
}
_CAFFE_UNIT = {
    "conv1": "1x1_reduce",
    "conv2": "3x3",
    "conv3": "1x1_increase",
    "bn1": "1x1_reduce",
    "bn2": "3x3",
    "bn3": "1x1_increase",
    "shortcut.conv": "1x1_proj",
    "shortcut.bn": "1x1_proj",
    "se.reduce": "1x1_down",
    "se.expand": "1x1_up",
}


def _inception(branches: tuple[tuple[str, ...], ...]) -> dict[str, str]:
    return {
        f"branch{index}.{kind}{number}": name
        for index, names in enumerate(branches)
        for number, name in enumerate(names, 1)
        for kind in ("conv", "bn")
    }


_THREES = (("3x3_reduce", "3x3"), ("double3x3_reduce", "double3x3a", "double3x3b"))


def _caffe(slash: str) -> dict[str, str | Split]:
    """List the authors' names; MatConvNet replaces their slashes."""
    module = "inception_{s+2}{b:a}"
    strided = _inception(_THREES)
    plain = _inception((("1x1",), *_THREES, ("pool_proj",)))
    modules = {
        # The modules with a stride, 3c and 4e, have no first branch.
        **{f"stage1.block2.{part}": f"inception_3c{slash}{name}" for part, name in strided.items()},
        **{f"stage2.block4.{part}": f"inception_4e{slash}{name}" for part, name in strided.items()},
        **{f"stage{{s}}.block{{b}}.{part}": f"{module}{slash}{name}" for part, name in plain.items()},
        **_units("conv{s+1}_{b+1}_", _CAFFE_UNIT),
        "classifier": "classifier",
    }
    return modules


def _caffe_stems(slash: str) -> dict[str, dict[str, str | Split]]:
    first = f"conv1{slash}7x7_s2"
    three = (f"conv1_1{slash}3x3_s2", f"conv1_2{slash}3x3", f"conv1_3{slash}3x3")
    inception = (first, f"conv2{slash}3x3_reduce", f"conv2{slash}3x3")
    names = {"": (first,), ".senet154": three, ".bn_inception": inception}
    return {
        suffix: {f"stem.{kind}{number}": name for number, name in enumerate(stem, 1) for kind in ("conv", "bn")}
        for suffix, stem in names.items()
    }


_BLOBS = {
    "conv.weight": TensorRule("{m}:0", "OIHW"),
    "dense.weight": TensorRule("{m}:0", "OI"),
    "dense.bias": TensorRule("{m}:1"),
    "se.bias": TensorRule("{m}:1"),
    "norm.mean": TensorRule("{m}/bn:0", "O", "factor", ("{m}/bn:2",)),
    "norm.variance": TensorRule("{m}/bn:1", "O", "factor", ("{m}/bn:2",)),
}
_INCEPTION_SE = {
    "stage{s}.block{b}.se.reduce": "inception_{s+2}{b:a}_1x1_down",
    "stage{s}.block{b}.se.expand": "inception_{s+2}{b:a}_1x1_up",
}
_AUTHORS = {
    "": ("se_resnet50", "se_resnet101", "se_resnet152", "se_resnext50_32x4d", "se_resnext101_32x4d"),
    ".senet154": ("senet154",),
    ".bn_inception": ("se_bn_inception",),
}


def _authors() -> dict[str, Layout]:
    layouts = {}
    caffe = {
        **_BLOBS,
        "norm.scale": TensorRule("{m}/bn/scale:0"),
        "norm.offset": TensorRule("{m}/bn/scale:1"),
        "se.weight": TensorRule("{m}:0", "OI11"),
    }
    matconvnet = {
        "conv.weight": TensorRule("{m}_filter", "HWIO"),
        "stem.conv1.weight": TensorRule("{m}_filter", "HWiO"),  # its input is RGB, the authors' is BGR
        "norm.scale": TensorRule("{m}_bn_mult", "O1"),
        "norm.offset": TensorRule("{m}_bn_bias", "O1"),
        "norm.mean": TensorRule("{m}_bn_moments", "O", column=0),
        "norm.variance": TensorRule("{m}_bn_moments", "O", "sigma", column=1),
        "dense.weight": TensorRule("{m}_filter", "11IO"),
        "dense.bias": TensorRule("{m}_bias", "O1"),
        "se.weight": TensorRule("{m}_filter", "11IO"),
        "se.bias": TensorRule("{m}_bias", "O1"),
    }
    for suffix, networks in _AUTHORS.items():
        se = _INCEPTION_SE if suffix == ".bn_inception" else {}
        modules = {**_caffe_stems("/")[suffix], **_caffe("/"), **se}
        layouts[f"caffe{suffix}"] = Layout(
            "hujie-frank/SENet 0262d43, models/*.prototxt", FRAMEWORK, caffe, modules, networks, format="caffe"
        )
        modules = {**_caffe_stems("_")[suffix], **_caffe("_"), **se}
        layouts[f"matconvnet{suffix}"] = Layout(
            "albanie/mcnSENets 75d8294, by vlfeat's import-caffe.py",
            TYPED,
            matconvnet,
            modules,
            networks,
            loose=True,
            format="matconvnet",
        )
    return layouts


def _resnets(prefix: str, depths: tuple[int, ...], *names: str) -> tuple[str, ...]:
    return (*(f"{prefix}{depth}" for depth in depths), *names)


_DEPTHS = (18, 34, 50, 101, 152)
_KERAS = {
    "conv.weight": TensorRule("{m}/kernel", "HWIO"),
    "conv.bias": TensorRule("{m}/bias"),
    "norm.scale": TensorRule("{m}/gamma"),
    "norm.offset": TensorRule("{m}/beta"),
    "norm.mean": TensorRule("{m}/moving_mean"),
    "norm.variance": TensorRule("{m}/moving_variance"),
    "dense.weight": TensorRule("{m}/kernel", "IO"),
    "dense.bias": TensorRule("{m}/bias"),
    "se.weight": TensorRule("{m}/kernel", "IO"),
    "se.bias": TensorRule("{m}/bias"),
}
_FLAX = {
    "conv.weight": TensorRule("{m}/kernel", "HWIO"),
    "conv.bias": TensorRule("{m}/bias"),
    "norm.scale": TensorRule("{m}/scale"),
    "norm.offset": TensorRule("{m}/bias"),
    "norm.mean": TensorRule("{m}/mean"),
    "norm.variance": TensorRule("{m}/var"),
    "dense.weight": TensorRule("{m}/kernel", "IO"),
    "dense.bias": TensorRule("{m}/bias"),
    "se.weight": TensorRule("{m}/kernel", "IO"),
    "se.bias": TensorRule("{m}/bias"),
}
_LINEN = {
    kind: rule._replace(name=("batch_stats/" if kind in ("norm.mean", "norm.variance") else "params/") + rule.name)
    for kind, rule in _FLAX.items()
}
_CANONICAL = {
    **_torch("OI"),
    **{f"norm.{name}": TensorRule(f"{{m}}.{name}") for name in ("scale", "offset", "mean", "variance")},
}
_TENSORPACK = {
    "conv.weight": TensorRule("{m}/W", "HWIO"),
    "norm.scale": TensorRule("{m}/bn/gamma"),
    "norm.offset": TensorRule("{m}/bn/beta"),
    "norm.mean": TensorRule("{m}/bn/mean/EMA"),
    "norm.variance": TensorRule("{m}/bn/variance/EMA"),
    "dense.weight": TensorRule("{m}/W", "IO"),
    "dense.bias": TensorRule("{m}/b"),
    "se.weight": TensorRule("{m}/W", "IO"),
    "se.bias": TensorRule("{m}/b"),
}
_MXNET = {
    "conv.weight": TensorRule("arg:{m}_weight", "OIHW"),
    "norm.scale": TensorRule("arg:{m}_gamma"),
    "norm.offset": TensorRule("arg:{m}_beta"),
    "norm.mean": TensorRule("aux:{m}_moving_mean"),
    "norm.variance": TensorRule("aux:{m}_moving_var"),
    "dense.weight": TensorRule("arg:{m}_weight", "OI"),
    "dense.bias": TensorRule("arg:{m}_bias"),
    "se.weight": TensorRule("arg:{m}_weight", "OI"),
    "se.bias": TensorRule("arg:{m}_bias"),
}
_CHAINER = {
    "conv.weight": TensorRule("{m}/W", "OIHW"),
    "conv.bias": TensorRule("{m}/b"),
    "norm.scale": TensorRule("{m}/gamma"),
    "norm.offset": TensorRule("{m}/beta"),
    "norm.mean": TensorRule("{m}/avg_mean"),
    "norm.variance": TensorRule("{m}/avg_var"),
    "se.weight": TensorRule("{m}/W", "OI"),
    "se.bias": TensorRule("{m}/b"),
}
_CREATED = "17*(3*(s-1)+b)"  # taki's units have 17 convolutions: 8 branches of two, and one after them
_TAKI = {
    "conv.weight": TensorRule("{m}/kernel", "HWIO"),
    "norm.scale": TensorRule("{m}/gamma"),
    "norm.offset": TensorRule("{m}/beta"),
    "norm.mean": TensorRule("{m}/moving_mean"),
    "norm.variance": TensorRule("{m}/moving_variance"),
    "dense.weight": TensorRule("{m}/kernel", "IO"),
    "se.weight": TensorRule("{m}/kernel", "IO"),
}

NETWORK_LAYOUTS: dict[str, Layout] = {
    "canonical": Layout("docs/SPEC.md, K-1 and M-5", PEER, _CANONICAL, separator="."),
    "se_torch": Layout("se_torch.SENet, state_dict", PEER, _torch("OI"), separator=".", extras=(COUNTER,)),
    "se_keras": Layout(
        "se_keras.senet",
        PEER,
        _KERAS,
        _units("stage{s}_block{b}_se/", {"se.reduce": "reduce", "se.expand": "expand"}),
        separator="_",
        format="keras",
    ),
    "se_flax": Layout("se_flax.SENet, nnx.state", PEER, _FLAX, separator="/", format="msgpack"),
    "se_flax.linen": Layout("se_flax.linen.SENet, variables", PEER, _LINEN, separator="/", format="msgpack"),
    "timm": Layout(
        "timm 1.0.31, models/resnet.py",
        PEER,
        _torch("OI11"),
        {
            "stem.conv1": "conv1",
            "stem.bn1": "bn1",
            **_units("layer{s}.{b}.", {**_TORCHVISION, "se.reduce": "se.fc1", "se.expand": "se.fc2"}),
            "classifier": "fc",
        },
        ("timm.seresnet50", "timm.seresnext50_32x4d"),
        extras=(COUNTER,),
    ),
    "timm.legacy": Layout(
        "timm 1.0.31, models/senet.py; pretrainedmodels 0.7.4 (Cadene) has the same names",
        PEER,
        _torch("OI11"),
        {
            "stem.conv{n}": "layer0.conv{n}",
            "stem.bn{n}": "layer0.bn{n}",
            **_units("layer{s}.{b}.", {**_TORCHVISION, "se.reduce": "se_module.fc1", "se.expand": "se_module.fc2"}),
            "classifier": "last_linear",
        },
        (
            *_resnets("timm.legacy_seresnet", _DEPTHS),
            "timm.legacy_seresnext50_32x4d",
            "timm.legacy_seresnext101_32x4d",
            "timm.legacy_senet154",
        ),
        extras=(COUNTER,),
    ),
    "moskomule": Layout(
        "moskomule/senet.pytorch 8cb2669",
        REFERENCE,
        _torch("OI"),
        {
            "stem.conv1": "conv1",
            "stem.bn1": "bn1",
            **_units("layer{s}.{b}.", {**_TORCHVISION, "se.reduce": "se.fc.0", "se.expand": "se.fc.2"}),
            "classifier": "fc",
        },
        (*_resnets("moskomule.se_resnet", _DEPTHS), "se_resnet20", "se_resnet32", "se_resnet56"),
        extras=(COUNTER,),
        format="torch",
    ),
    **_authors(),
    "shicai": Layout(
        "shicai/SENet-Caffe d577a92, se_resnet_50_v1_deploy.prototxt",
        FRAMEWORK,
        {
            **_BLOBS,
            "norm.scale": TensorRule("{m}/scale:0"),
            "norm.offset": TensorRule("{m}/scale:1"),
            "se.weight": TensorRule("{m}:0", "OI"),
            "dense.weight": TensorRule("{m}:0", "OI11"),
        },
        {
            "stem.conv1": "conv1",
            "stem.bn1": "conv1",
            **_units(
                "conv{s+1}_{b+1}/",
                {"conv{n}": "x{n}", "bn{n}": "x{n}", "shortcut.conv": "prj", "shortcut.bn": "prj"},
            ),
            **_units("fc{s+1}_{b+1}/", {"se.reduce": "sqz", "se.expand": "exc"}),
            "classifier": "fc6",
        },
        ("shicai.se_resnet50",),
        format="caffe",
    ),
    "tensorpack": Layout(
        "tensorpack 1547a54, examples/ResNet",
        FRAMEWORK,
        _TENSORPACK,
        {
            "stem.conv1": "conv0",
            "stem.bn1": "conv0",
            **_units(
                "group{s-1}/block{b}/",
                {
                    "conv{n}": "conv{n}",
                    "bn{n}": "conv{n}",
                    "shortcut.conv": "convshortcut",
                    "shortcut.bn": "convshortcut",
                    "se.reduce": "fc1",
                    "se.expand": "fc2",
                },
            ),
            "classifier": "linear",
        },
        ("tensorpack.resnet50_se", "tensorpack.resnet101_se", "tensorpack.resnet152_se"),
        format="npz",
    ),
    "mxnet": Layout(
        "bruinxiong/SENet.mxnet 5f0b469",
        FRAMEWORK,
        _MXNET,
        {
            "input_bn": "bn_data",
            "stem.conv1": "conv0",
            "stem.bn1": "bn0",
            **_units(
                "stage{s}_unit{b+1}_",
                {
                    "conv{n}": "conv{n}",
                    "bn{n}": "bn{n}",
                    "se.reduce": "excitation1",
                    "se.expand": "excitation2",
                    "shortcut.conv": "sc",
                    "shortcut.bn": "sc_bn",
                },
            ),
            "head.bn1": "bn1",
            "classifier": "fc1",
        },
        (
            *_resnets("mxnet.se_resnet", _DEPTHS),
            *(f"mxnet.se_resnext{depth}_32x4d" for depth in (50, 101, 152)),
            "mxnet.se_resnext50_64x2d",
        ),
        extras=(Extra("arg:bn_data_gamma", "input_bn", 1, "", "O"),),  # fix_gamma: MXNet uses 1, whatever is stored
        format="mxnet",
    ),
    "chainer": Layout(
        "nutszebra/SENets 2a5a0b3",
        REFERENCE,
        _CHAINER,
        {
            "stem.conv1": "conv1",
            "stage{s}.block{b}.conv{n}": "res_block{s}/bn_relu_conv{n}_{b+1}/conv",
            "stage{s}.block{b}.bn{n}": "res_block{s}/bn_relu_conv{n}_{b+1}/bn",
            "stage{s}.block{b}.shortcut.bn": "res_block{s}/skip_bn",
            "stage{s}.block{b}.se.reduce": "res_block{s}/se_block_{b+1}/f1",
            "stage{s}.block{b}.se.expand": "res_block{s}/se_block_{b+1}/f2",
            "head.bn1": "bn_relu_conv/bn",
            "classifier": "bn_relu_conv/conv",
        },
        ("chainer.se_resnet_n18_r16",),
        extras=(Extra("{m}/N"),),
        format="npz",
    ),
    "taki": Layout(
        "taki0112/SENet-Tensorflow 41b12c4, SE_ResNeXt.py; names by order of creation",
        FRAMEWORK,
        _TAKI,
        {
            "stem.conv1": "conv2d",
            "stem.bn1": "first_layer_batch1",
            "stage{s}.block{b}.conv3": f"conv2d_{{17+{_CREATED}}}",
            "stage{s}.block{b}.bn3": "trans_layer_{s}_{b}_batch1",
            "stage{s}.block{b}.conv{n}": Split(f"conv2d_{{n+2*i+{_CREATED}}}", 8),
            "stage{s}.block{b}.bn{n}": Split("split_layer_{s}_{b}_splitN_{i}_batch{n}", 8),
            "stage{s}.block{b}.se.reduce": "dense{_2*(3*(s-1)+b)}",
            "stage{s}.block{b}.se.expand": "dense_{2*(3*(s-1)+b)+1}",
            "classifier": "dense_18",
        },
        ("taki.se_resnext_cifar",),
        extras=(
            Extra("{m}/{m}/moving_mean/biased", value=None),
            Extra("{m}/{m}/moving_mean/local_step", value=None),
            Extra("{m}/{m}/moving_variance/biased", value=None),
            Extra("{m}/{m}/moving_variance/local_step", value=None),
            Extra("is_training", "", None),
        ),
        format="tensorflow",
    ),
}
"""Each layout by its name; ``caffe`` and ``matconvnet`` have three each, for the three kinds of the authors' stems."""
