"""What the generators of all formats share: a random file in a few choices, some of them hostile.

A file has some tensors. ``Chance`` decides how many, their names, dtypes and shapes, and which oddities a file has:
recursion, duplication, overlap, expansion, dtype and order. Lengths and checksums are always right, so that a file
gets past the first check.
"""

import random
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

Choice = TypeVar("Choice")

DTYPES = {
    "float32": 4,
    "float16": 2,
    "float64": 8,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "bool": 1,
}
"""Dtypes of all formats, with the bytes of an element."""
NAMES = ("fc1.weight", "fc2.weight", "se/dense/kernel", "se/dense_1/kernel", "layer1.0.se.fc.0.weight", "w", "W", "#")
HOSTILE_NAMES = (
    "",
    "..",
    "../x",
    "/x",
    "a" * 5000,
    "a." * 600,
    "\x1b[2J",
    "\u202e",
    "a\nb",
    "dense_" + "9" * 5000,
    "\0",
)
NUMBERS = (0, 1, 2, 3, 7, 16, 255, 1 << 15, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 63)


class Tensor(NamedTuple):
    """A tensor to be written: its name, dtype, shape, and as many bytes as these need."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class Chance(random.Random):
    """Random decisions of one file, determined by its seed."""

    def is_odd(self, one_in: int = 8) -> bool:
        """Decide for an oddity."""
        return self.randrange(one_in) == 0

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """Choose one of a sequence."""
        return choices[self.randrange(len(choices))]

    def name(self, number: int) -> str:
        """Make a name, which may occur twice, or be hostile."""
        if self.is_odd(24):
            return self.pick(HOSTILE_NAMES)
        if self.is_odd(24):
            return "same"
        return f"{self.pick(('', 'a.', 'b/', 'block1.'))}{number}.{self.pick(NAMES)}"

    def count(self, usual: int = 4) -> int:
        """Choose how many parts there are: few, sometimes many."""
        return self.pick((100, 1000)) if self.is_odd(40) else self.randrange(usual + 1)

    def number(self) -> int:
        """Choose a number that is near a limit."""
        return max(0, self.pick(NUMBERS) + self.randrange(-1, 2))

    def shape(self) -> tuple[int, ...]:
        """Choose a shape of some bytes."""
        return tuple(self.pick((0, 1, 1, 2, 3, 4, 8)) for _ in range(self.randrange(5)))

    def tensors(self) -> list[Tensor]:
        """Make the tensors of a file."""
        made = []
        for number in range(self.count() + (not self.is_odd())):
            dtype, shape = self.pick(list(DTYPES)), self.shape()
            if self.is_odd(30):
                shape = (1,) * self.pick((32, 33, 200))
            size = DTYPES[dtype]
            for length in shape:
                size *= length
            data = bytes(size) if dtype == "bool" else self.randbytes(size)
            made.append(Tensor(self.name(number), dtype, shape, data))
        return made

    def odd_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return a shape as it is, or sometimes one that its bytes do not have."""
        if not self.is_odd(20):
            return shape
        odd = list(shape) or [1]
        odd[self.randrange(len(odd))] = self.number()
        return tuple(odd)


def nest(depth: int, inner: bytes, wrap: Callable[[bytes], bytes]) -> bytes:
    """Wrap bytes in themselves."""
    for _ in range(depth):
        inner = wrap(inner)
    return inner


def pack(codes: str, *values: Any) -> bytes:
    """Pack numbers little-endian, each cut to its size."""
    out = b""
    for code, value in zip(codes, values, strict=True):
        size = struct.calcsize("<" + code)
        out += (int(value) & (1 << 8 * size) - 1).to_bytes(size, "little")
    return out


def cut(parts: list[bytes], chance: Chance) -> Iterator[bytes]:
    """Yield parts; sometimes one twice, one left out, or two in the other order."""
    parts = list(parts)
    if parts and chance.is_odd(12):
        parts.append(chance.pick(parts))
    if parts and chance.is_odd(16):
        parts.pop(chance.randrange(len(parts)))
    if chance.is_odd(10):
        chance.shuffle(parts)
    yield from parts
