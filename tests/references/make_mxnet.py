"""bruinxiong/SENet.mxnet's networks, short and narrow, as symbols of MXNet: random weights, and what MXNet answers.

``pip install mxnet==1.9.1 numpy==1.23.5 && python make_mxnet.py``
"""

from pathlib import Path

import mxnet as mx
import numpy as np

HERE, SYMBOL = Path(__file__).parent, mx.sym
FREE = {"fix_gamma": False, "eps": 2e-5, "momentum": 0.9}


def norm(x, name):
    return SYMBOL.BatchNorm(x, name=name, **FREE)


def relu(x, name):
    return SYMBOL.Activation(x, act_type="relu", name=name)


def conv(x, channels, kernel, stride, name, groups=1):
    size, strides, pad = (kernel, kernel), (stride, stride), (kernel // 2, kernel // 2)
    options = {"num_filter": channels, "num_group": groups, "no_bias": True, "name": name}
    return SYMBOL.Convolution(x, kernel=size, stride=strides, pad=pad, **options)


def scaled(x, name, channels):
    z = SYMBOL.Pooling(x, global_pool=True, kernel=(7, 7), pool_type="avg", name=f"{name}_squeeze")
    h = SYMBOL.FullyConnected(SYMBOL.Flatten(z), num_hidden=channels // 16, name=f"{name}_excitation1")
    v = SYMBOL.FullyConnected(relu(h, f"{name}_excitation1_relu"), num_hidden=channels, name=f"{name}_excitation2")
    g = SYMBOL.Activation(v, act_type="sigmoid", name=f"{name}_excitation2_sigmoid")
    return SYMBOL.broadcast_mul(x, SYMBOL.reshape(g, shape=(-1, channels, 1, 1)))


def resnext_unit(x, channels, width, stride, name, first):
    y = relu(norm(conv(x, width, 1, 1, f"{name}_conv1"), f"{name}_bn1"), f"{name}_relu1")
    y = relu(norm(conv(y, width, 3, stride, f"{name}_conv2", 4), f"{name}_bn2"), f"{name}_relu2")
    y = scaled(norm(conv(y, channels, 1, 1, f"{name}_conv3"), f"{name}_bn3"), name, channels)
    if first:
        x = norm(conv(x, channels, 1, stride, f"{name}_sc"), f"{name}_sc_bn")
    return relu(y + x, f"{name}_relu")


def resnet_unit(x, channels, width, stride, name, first):
    a = relu(norm(x, f"{name}_bn1"), f"{name}_relu1")
    y = relu(norm(conv(a, width, 1, 1, f"{name}_conv1"), f"{name}_bn2"), f"{name}_relu2")
    y = relu(norm(conv(y, width, 3, stride, f"{name}_conv2"), f"{name}_bn3"), f"{name}_relu3")
    y = scaled(conv(y, channels, 1, 1, f"{name}_conv3"), name, channels)
    return y + (conv(a, channels, 1, stride, f"{name}_sc") if first else x)


def network(unit, widths):
    x = SYMBOL.BatchNorm(SYMBOL.Variable("data"), fix_gamma=True, eps=2e-5, momentum=0.9, name="bn_data")
    x = relu(norm(conv(x, 8, 7, 2, "conv0"), "bn0"), "relu0")
    x = SYMBOL.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max")
    for stage, (channels, width) in enumerate(zip((32, 64), widths, strict=True), 1):
        for number in (1, 2):
            stride = 2 if (stage, number) == (2, 1) else 1
            x = unit(x, channels, width, stride, f"stage{stage}_unit{number}", number == 1)
    if unit is resnet_unit:
        x = relu(norm(x, "bn1"), "relu1")
    x = SYMBOL.Pooling(x, global_pool=True, kernel=(7, 7), pool_type="avg", name="pool1")
    return SYMBOL.FullyConnected(SYMBOL.Flatten(x), num_hidden=7, name="fc1")


def drawn(random, name, shape):
    if name.endswith("var"):
        value = random.uniform(0.5, 2.0, shape) * (3000.0 if name.startswith("bn_data") else 1.0)
    elif name.endswith("mean"):
        value = random.normal(100.0 if name.startswith("bn_data") else 0.0, 0.5, shape)
    elif name.endswith("gamma"):
        value = random.uniform(0.5, 1.5, shape)  # bn_data's too, which MXNet is to take for 1
    else:
        value = random.normal(0.0, np.sqrt(2.0 / np.prod(shape[1:])) if len(shape) > 1 else 0.5, shape)
    return mx.nd.array(value.astype(np.float32))


def write(folder, symbol, seed):
    random, shape = np.random.default_rng(seed), (2, 3, 37, 44)
    shapes, _, statistics = symbol.infer_shape(data=shape)
    named = dict(zip(symbol.list_arguments(), shapes, strict=True))
    del named["data"]
    weights = {name: drawn(random, name, shape) for name, shape in named.items()}
    states = {
        name: drawn(random, name, shape) for name, shape in zip(symbol.list_auxiliary_states(), statistics, strict=True)
    }
    x = random.uniform(0.0, 255.0, shape).astype(np.float32)
    bound = symbol.bind(mx.cpu(), {**weights, "data": mx.nd.array(x)}, aux_states=states, grad_req="null")
    folder.mkdir(exist_ok=True)
    kinds = {"arg": weights, "aux": states}
    mx.nd.save(
        str(folder / "weights.params"),
        {f"{kind}:{name}": value for kind, some in kinds.items() for name, value in some.items()},
    )
    np.save(folder / "input.npy", x)
    np.save(folder / "output.npy", bound.forward(is_train=False)[0].asnumpy())


if __name__ == "__main__":
    write(HERE / "mxnet-se_resnext", network(resnext_unit, (16, 32)), 1)
    write(HERE / "mxnet-se_resnet", network(resnet_unit, (8, 16)), 0)
