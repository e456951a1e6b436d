"""CRC-32C, Castagnoli's checksum (RFC 3720, B.4), which NumPy takes for thousands of stretches of the bytes at once.

The state is linear in the bytes, so states of stretches can be taken from zero, moved over the bytes behind them, and
added.
"""

import functools
import struct

import numpy as np

PIECE = 1 << 24
"""Bytes that are taken at once."""


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """Of bytes.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    state = 0xFFFFFFFF
    for start in range(0, len(data), PIECE):
        state = _advanced(state, np.frombuffer(data[start : start + PIECE], np.uint8))
    return state ^ 0xFFFFFFFF


@functools.cache
def _table() -> np.ndarray:
    """What two bytes do to the checksum's state."""
    table: np.ndarray = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        table = table >> 1 ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    return table


def _advanced(state: int, data: np.ndarray) -> int:
    """The state after some bytes: that of each stretch on its own, then all of them moved into place and added."""
    table = _table()
    if data.size < 4:
        for byte in data.tolist():
            state = int(table[(state ^ byte) << 8 & 0xFFFF]) ^ state >> 8
        return state
    doublings = max(2, (data.size.bit_length() - 3) // 2)  # about as long to take states as to move them
    stretches = -(-data.size // (1 << doublings))
    padded = np.zeros(stretches << doublings, np.uint8)  # zeros before the data leave a state of zero as it is
    start = padded.size - data.size
    padded[start:] = data
    padded[start : start + 4] ^= np.frombuffer(struct.pack("<I", state), np.uint8)
    states = np.zeros(stretches, np.uint32)
    for pairs in np.ascontiguousarray(padded.view("<u2").reshape(stretches, -1).T):
        states = table[(states ^ pairs) & 0xFFFF] ^ states >> 16
    while states.size > 1:
        if states.size % 2:
            states = np.concatenate([np.zeros(1, np.uint32), states])
        states = _moved(states[::2], _moves(doublings)) ^ states[1::2]
        doublings += 1
    return int(states[0])


@functools.cache
def _moves(doublings: int) -> np.ndarray:
    """What becomes of each bit of a state over ``2**doublings`` zero bytes."""
    if doublings:
        return _moved(_moves(doublings - 1), _moves(doublings - 1))
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    return _table()[(bits << np.uint32(8)) & 0xFFFF] ^ bits >> 8


def _moved(states: np.ndarray, moves: np.ndarray) -> np.ndarray:
    chosen = np.where(states[:, None] >> np.arange(32, dtype=np.uint32) & 1, moves, np.uint32(0))
    return np.bitwise_xor.reduce(chosen, axis=1)
