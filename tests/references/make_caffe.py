"""The networks of hujie-frank/SENet and shicai/SENet-Caffe, short and narrow, as prototxts: random weights, which
protobuf writes, and what OpenCV's importer of Caffe answers.

``pip install opencv-python-headless==4.10.0.84 protobuf && python -m tests.references.make_caffe`` (OpenCV 5 cannot).
Where the authors have Axpy stands what they advise those who have not compiled it (their #43): Scale, then Eltwise.
"""

from pathlib import Path

import cv2
import numpy as np

from tests.se_port.formats.test_caffe import schema

HERE = Path(__file__).parent
FACTOR = 999.98236  # by which Caffe divides the statistics that it keeps


class Network:
    """A prototxt, layer by layer, and the blobs of each; a layer gives the name of its blob."""

    def __init__(self, shape, seed):
        self.shape, self.random = shape, np.random.default_rng(seed)
        self.text = ['name: "net"', 'input: "data"', *(f"input_dim: {length}" for length in shape)]
        self.channels, self.blobs = {"data": shape[1]}, []

    def layer(self, kind, name, bottoms, top=None, text="", blobs=(), channels=None):
        top = top or name
        inputs = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
        self.text.append(f'layer {{ name: "{name}" type: "{kind}" {inputs} top: "{top}" {text} }}')
        if blobs:
            self.blobs.append((name, kind, blobs))
        self.channels[top] = channels or self.channels[bottoms[0]]
        return top

    def weights(self, *shape):
        return self.random.normal(0.0, np.sqrt(2.0 / np.prod(shape[1:])), shape)

    def conv(self, x, name, out, kernel, stride=1, pad=0, groups=1, bias=False):
        blobs = [self.weights(out, self.channels[x] // groups, kernel, kernel)]
        blobs += [self.random.normal(0.0, 0.5, out)] if bias else []
        numbers = f"num_output: {out} kernel_size: {kernel} stride: {stride} pad: {pad} group: {groups}"
        text = f"convolution_param {{ {numbers} bias_term: {str(bias).lower()} }}"
        return self.layer("Convolution", name, [x], text=text, blobs=blobs, channels=out)

    def dense(self, x, name, out):
        blobs = [self.weights(out, self.channels[x]), self.random.normal(0.0, 0.5, out)]
        text = f"inner_product_param {{ num_output: {out} }}"
        return self.layer("InnerProduct", name, [x], text=text, blobs=blobs, channels=out)

    def norm(self, x, name, scale, text="use_global_stats: true"):
        c, random = self.channels[x], self.random
        statistics = [random.normal(0.0, 0.5, c) * FACTOR, random.uniform(0.5, 2.0, c) * FACTOR, np.array([FACTOR])]
        self.layer("BatchNorm", name, [x], x, f"batch_norm_param {{ {text} }}", statistics)
        affine = [random.uniform(0.5, 1.5, c), random.normal(0.0, 0.5, c)]
        return self.layer("Scale", scale, [x], x, "scale_param { bias_term: true }", affine)

    def relu(self, x, name):
        return self.layer("ReLU", name, [x], x)

    def normed(self, x, name, *numbers, relu=True, groups=1):
        y = self.norm(self.conv(x, name, *numbers, groups=groups), f"{name}/bn", f"{name}/bn/scale")
        return self.relu(y, f"{name}/relu") if relu else y

    def pool(self, x, name, kind="MAX", stride=2, pad=0):
        text = f"pooling_param {{ pool: {kind} kernel_size: 3 stride: {stride} pad: {pad} }}"
        return self.layer("Pooling", name, [x], text=text)

    def mean(self, x, name):
        return self.layer("Pooling", name, [x], text="pooling_param { pool: AVE global_pooling: true }")

    def gate(self, x, unit, hidden):
        c = self.channels[x]
        h = self.conv(self.mean(x, f"{unit}_global_pool"), f"{unit}_1x1_down", hidden, 1, bias=True)
        v = self.conv(self.relu(h, f"{unit}_1x1_down/relu"), f"{unit}_1x1_up", c, 1, bias=True)
        g = self.layer("Sigmoid", f"{unit}_prob", [v], v)
        return self.layer("Reshape", f"{unit}_prob_reshape", [g], text="reshape_param { shape { dim: 0 dim: 0 } }")

    def scaled(self, x, g, name, top=None):
        return self.layer("Scale", name, [x, g], top, "scale_param { axis: 0 bias_term: false }")

    def added(self, x, y, name):
        return self.layer("Eltwise", name, [x, y], text="eltwise_param { operation: SUM }")

    def write(self, folder, last):
        folder.mkdir(exist_ok=True)
        message = schema()()
        for name, kind, blobs in self.blobs:
            layer = message.layer.add(name=name, type=kind)
            for values in blobs:
                blob = layer.blobs.add()
                blob.shape.dim.extend(values.shape)
                blob.data.extend(values.astype(np.float32).ravel().tolist())
        weights = message.SerializeToString()
        (folder / "weights.caffemodel").write_bytes(weights)
        net = cv2.dnn.readNetFromCaffe("\n".join(self.text).encode(), weights)
        x = self.random.uniform(-1.0, 1.0, self.shape).astype(np.float32)
        net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        net.setInput(x)
        np.save(folder / "output.npy", net.forward(last).reshape(len(x), -1))
        np.save(folder / "input.npy", x)


def residual(kind, seed):
    net = Network((2, 3, 44, 36), seed)
    if kind == "senet154":
        x = net.normed("data", "conv1_1/3x3_s2", 8, 3, 2, 1)
        x = net.normed(x, "conv1_2/3x3", 8, 3, 1, 1)
        x = net.normed(x, "conv1_3/3x3", 16, 3, 1, 1)
    else:
        x = net.normed("data", "conv1/7x7_s2", 8, 7, 2, 3)
    x = net.pool(x, "pool1/3x3_s2")
    for stage, c in ((2, 32), (3, 64)):
        for number in (1, 2):
            unit, stride = f"conv{stage}_{number}", 2 if (stage, number) == (3, 1) else 1
            first, second, groups = {
                "se_resnet50": (c // 4, c // 4, 1),
                "se_resnext50": (c // 2, c // 2, 4),
                "senet154": (c // 2, c, 4),
            }[kind]
            on_first, on_second = (stride, 1) if kind == "se_resnet50" else (1, stride)
            y = net.normed(x, f"{unit}_1x1_reduce", first, 1, on_first)
            y = net.normed(y, f"{unit}_3x3", second, 3, on_second, 1, groups=groups)
            y = net.normed(y, f"{unit}_1x1_increase", c, 1, relu=False)
            g = net.gate(y, unit, c // 16)
            if number == 1:
                kernel, pad = (3, 1) if kind == "senet154" and stage > 2 else (1, 0)
                x = net.normed(x, f"{unit}_1x1_proj", c, kernel, stride, pad, relu=False)
            x = net.relu(net.added(net.scaled(y, g, f"{unit}_scale"), x, unit), f"{unit}/relu")
    net.write(HERE / f"caffe-{kind}", net.dense(net.mean(x, "pool5/7x7_s1"), "classifier", 7))


def shicai(seed):
    net = Network((2, 3, 45, 37), seed)

    def normed(x, name, *numbers):
        return net.norm(net.conv(x, name, *numbers), f"{name}/bn", f"{name}/scale", "eps: 1e-4")

    x = net.pool(net.relu(normed("data", "conv1", 8, 7, 2, 3), "relu1"), "pool1")
    for stage, c in ((2, 32), (3, 64)):
        for number in (1, 2):
            unit, stride = f"{stage}_{number}", 2 if (stage, number) == (3, 1) else 1
            y = net.relu(normed(x, f"conv{unit}/x1", c // 4, 1), f"relu{unit}/x1")
            y = net.relu(normed(y, f"conv{unit}/x2", c // 4, 3, stride, 1), f"relu{unit}/x2")
            y = normed(y, f"conv{unit}/x3", c, 1)
            h = net.relu(net.dense(net.mean(y, f"pool{unit}/gap"), f"fc{unit}/sqz", c // 16), f"relu{unit}/sqz")
            v = net.dense(h, f"fc{unit}/exc", c)
            y = net.scaled(y, net.layer("Sigmoid", f"sigm{unit}/gate", [v], v), f"scale{unit}")
            if number == 1:
                x = normed(x, f"conv{unit}/prj", c, 1, stride)
            x = net.relu(net.added(x, y, f"block_{unit}"), f"relu{unit}")
    net.write(HERE / "caffe-shicai", net.conv(net.mean(x, "pool5"), "fc6", 7, 1, bias=True))


MODULES = {
    "3a": (64, (64, 64), (64, 96), 32),
    "3b": (64, (64, 96), (64, 96), 64),
    "3c": (0, (128, 160), (64, 96), 0),
    "4a": (224, (64, 96), (96, 128), 128),
    "4b": (192, (96, 128), (96, 128), 128),
    "4c": (160, (128, 160), (128, 160), 128),
    "4d": (96, (128, 192), (160, 192), 128),
    "4e": (0, (128, 192), (192, 256), 0),
    "5a": (352, (192, 320), (160, 224), 128),
    "5b": (352, (192, 320), (192, 224), 128),
}
"""Widths of 1x1, of 3x3, of double 3x3, and of what follows the pool; here a sixteenth of each. No 1x1: stride 2."""


def inception(seed):
    net = Network((1, 3, 96, 64), seed)
    x = net.pool(net.normed("data", "conv1/7x7_s2", 4, 7, 2, 3), "pool1/3x3_s2")
    x = net.normed(net.normed(x, "conv2/3x3_reduce", 4, 1), "conv2/3x3", 12, 3, 1, 1)
    x = net.pool(x, "pool2/3x3_s2")
    for name, (one, threes, doubles, projected) in MODULES.items():
        at, stride = f"inception_{name}", 1 if one else 2
        parts = [net.normed(x, f"{at}/1x1", one // 16, 1)] if one else []
        y = net.normed(x, f"{at}/3x3_reduce", threes[0] // 16, 1)
        parts.append(net.normed(y, f"{at}/3x3", threes[1] // 16, 3, stride, 1))
        y = net.normed(x, f"{at}/double3x3_reduce", doubles[0] // 16, 1)
        y = net.normed(y, f"{at}/double3x3a", doubles[1] // 16, 3, 1, 1)
        parts.append(net.normed(y, f"{at}/double3x3b", doubles[1] // 16, 3, stride, 1))
        if one:
            y = net.pool(x, f"{at}/pool", "MAX" if name == "5b" else "AVE", 1, 1)
            parts.append(net.normed(y, f"{at}/pool_proj", projected // 16, 1))
        else:
            parts.append(net.pool(x, f"{at}/pool/3x3_s2"))
        channels = sum(net.channels[part] for part in parts)
        y = net.layer("Concat", f"{at}/concat", parts, channels=channels)
        x = net.scaled(y, net.gate(y, at, channels // 4), f"{at}_scale", f"{at}/output")
    net.write(HERE / "caffe-se_bn_inception", net.dense(net.mean(x, "pool5/7x7_s1"), "classifier", 7))


if __name__ == "__main__":
    for index, each in enumerate(("se_resnet50", "se_resnext50", "senet154")):
        residual(each, index)
    shicai(3)
    inception(4)
