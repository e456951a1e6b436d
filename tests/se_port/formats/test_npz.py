"""npz: against NumPy, the file of somebody's Chainer network, archives typed out, and hostile ones."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from se_port import formats
from se_port.formats import _base, _zips, npz
from se_spec import FileFormatError

from .tensors import is_mapped, peak_memory, same, samples

CHAINER = Path(__file__).parents[2] / "references" / "nutszebra-N2_r16" / "weights.model"


def npy(header: str = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", data: bytes = bytes(8)) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + data


def member(name: bytes = b"w.npy", data: bytes = npy(), **other: int) -> tuple[bytes, bytes, dict[str, int]]:
    return name, data, other


def archive(*given: tuple[bytes, bytes, dict[str, int]], tail: bytes = b"", **other: int) -> bytes:
    """Encode a zip of stored members; any field of the directory can be replaced."""
    packed = directory = b""
    for name, data, wrong in given:
        said = {"flags": 0, "method": 0, "crc": zlib.crc32(data), "packed": len(data), "size": len(data)}
        said |= {"at": len(packed), "extra": 0} | wrong
        flags, method, crc, short, size, at, extra = said.values()
        packed += struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, method, 0, 33, 0, 0, 0, len(name), 0) + name + data
        entry = (20, 20, flags, method, 0, 33, crc, short, size, len(name), extra, 0, 0, 0, 0, at)
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", *entry) + name
    end = {"disk": 0, "first": 0, "here": len(given), "count": len(given), "size": len(directory), "at": len(packed)}
    end |= {"comment": 0} | other
    return packed + directory + struct.pack("<4s4H2LH", b"PK\5\6", *end.values()) + tail


def deflated(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-15)
    return squeeze.compress(data) + squeeze.flush()


def saved(save: Callable[..., None] = np.savez, **arrays: object) -> bytes:
    save(file := io.BytesIO(), **arrays)
    return file.getvalue()


def test_typed_file_is_read(tmp_path: Path) -> None:
    (path := tmp_path / "x.npz").write_bytes(
        b"PK\3\4" + b"\x14\0" + b"\0\0" + b"\0\0" + b"\0\0\x21\0"  # version 2.0, no flags, stored, 1 January 1980
        b"\x93\x0a\xee\x7a" + b"\x48\0\0\0" + b"\x48\0\0\0"  # CRC, 72 bytes, of 72
        b"\5\0" + b"\0\0" + b"w.npy"
        b"\x93NUMPY\1\0" + b"\x3a\0"
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n"
        b"\0\0\xc0\x3f"  # 1.5
        b"PK\1\2" + b"\x14\0" + b"\x14\0" + b"\0\0" + b"\0\0" + b"\0\0\x21\0"
        b"\x93\x0a\xee\x7a" + b"\x48\0\0\0" + b"\x48\0\0\0"
        b"\5\0" + b"\0\0" + b"\0\0" + b"\0\0" + b"\0\0" + b"\0\0\0\0" + b"\0\0\0\0" + b"w.npy"
        b"PK\5\6" + b"\0\0" + b"\0\0" + b"\1\0" + b"\1\0" + b"\x33\0\0\0" + b"\x6b\0\0\0" + b"\0\0"
    )
    got = formats.read(path, "npz")
    assert same(got, {"w": np.array([1.5], np.float32)})
    assert is_mapped(got["w"])


def test_round_trip_is_exact_and_aligned_to_64_bytes(tmp_path: Path) -> None:
    want = samples(npz.CODES)
    formats.write(tmp_path / "x.npz", want)
    got = formats.read(tmp_path / "x.npz", "npz")
    assert same(got, want)
    assert all(is_mapped(array) and array.ctypes.data % 64 == 0 for array in got.values() if array.size)
    formats.write(tmp_path / "y.npz", got)
    assert (tmp_path / "y.npz").read_bytes() == (tmp_path / "x.npz").read_bytes()


def test_numpy_reads_written_files(tmp_path: Path) -> None:
    want = samples(npz.CODES)
    formats.write(tmp_path / "x.npz", want)
    with np.load(tmp_path / "x.npz") as theirs:
        got = {name: theirs[name].view(ml_dtypes.bfloat16) if "bf" in name else theirs[name] for name in theirs}
    assert same(got, want)


def write_with_numpy(folder: Path, save: Callable[..., None]) -> tuple[Path, formats.Tensors]:
    """Write arrays of every dtype, in Fortran order and big-endian ones included."""
    want = samples(npz.CODES)
    (folder / "x.npz").write_bytes(saved(save, **want))
    return folder / "x.npz", want


def test_empty_file_round_trips(tmp_path: Path) -> None:
    formats.write(tmp_path / "x.npz", {})
    assert not formats.read(tmp_path / "x.npz", "npz")


def test_chainers_file_is_read_under_its_ending() -> None:
    assert npz.matches(CHAINER, CHAINER.read_bytes()[:64])
    got = formats.read(CHAINER, "npz")
    with np.load(CHAINER) as theirs:
        assert same(got, dict(theirs))
    assert got["res_block1/se_block_1/f1/W"].dtype == np.float32
    assert got["res_block1/skip_bn/N"].shape == ()


def test_header_of_python_2_is_read(tmp_path: Path) -> None:
    data = npy("{'descr': '>i2', 'fortran_order': True, 'shape': (2L, 2L), }", b"\0\1\0\2\0\3\0\4")
    (path := tmp_path / "x.npz").write_bytes(archive(member(data=data)))
    assert formats.read(path, "npz")["w"].tolist() == [[1, 3], [2, 4]]


def test_only_one_tensor_is_in_memory(tmp_path: Path) -> None:
    tensors = {str(number): np.zeros(1 << 18, np.float32) for number in range(16)}
    formats.write(tmp_path / "x.npz", tensors)
    np.savez_compressed(tmp_path / "small.npz", **tensors)

    def pass_on(name: str) -> None:
        formats.write(tmp_path / "y.npz", formats.read(tmp_path / name, "npz"), force=True)

    assert peak_memory(lambda: pass_on("x.npz")) < 1 << 18
    assert peak_memory(lambda: pass_on("small.npz")) < 4 << 20


def test_zip64_sizes_are_read(tmp_path: Path) -> None:
    """The fields of an archive above 4 GB are used in a small one: they refer to 64-bit fields."""
    whole = archive(member(packed=0xFFFFFFFF, size=0xFFFFFFFF, at=0xFFFFFFFF, extra=36))
    at, end = whole.index(b"PK\1\2"), whole.index(b"PK\5\6")
    wide = struct.pack("<2H4s2H3Q", 7, 4, b"else", 1, 24, len(npy()), len(npy()), 0)
    end_64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, end - at + len(wide), at)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end + len(wide), 1)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (path := tmp_path / "x.npz").write_bytes(whole[:end] + wide + end_64 + locator + last)
    assert formats.read(path, "npz")["w"].tolist() == [0, 0]
    with np.load(path) as theirs:
        assert theirs["w"].tolist() == [0, 0]
    path.write_bytes(whole[:end] + wide + end_64[:-1] + locator + last)
    with pytest.raises(FileFormatError, match="no zip that can be read"):
        formats.read(path, "npz")
    path.write_bytes(archive(member(size=0xFFFFFFFF)))
    with pytest.raises(FileFormatError, match="announces 4,294,967,295"):
        formats.read(path, "npz")


def descr(code: str, data: bytes = bytes(8)) -> bytes:
    return archive(member(data=npy(f"{{'descr': {code}, 'fortran_order': False, 'shape': (2,), }}", data)))


def shape(axes: str, data: bytes = bytes(8)) -> bytes:
    return archive(member(data=npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {axes}, }}", data)))


BOMB = deflated(npy(data=bytes(100_000)))
HOSTILE = {
    "nothing": (b"", "cannot be read"),
    "half of it": (archive(member())[:100], "not a zip file"),
    "bytes behind it": (archive(member(), tail=b"more"), "before or after its zip archive"),
    "bytes before it": (b"MZ" + archive(member()), "before or after its zip archive"),
    "two disks": (archive(member(), disk=1), "on several disks"),
    "a directory elsewhere": (archive(member(), at=0), "before or after its zip archive"),
    "more members than there are": (archive(member(), here=3, count=3), "announces 3 members"),
    "fewer members than there are": (archive(member(), member(b"v.npy"), here=1, count=1), "announces 1 members"),
    "no array": (archive(member(b"notes.txt", b"hello")), "has the member 'notes.txt'"),
    "one name twice": (archive(member(), member()), "two members 'w.npy'"),
    "a name that climbs": (archive(member(b"../w.npy")), "'../w.npy'"),
    "a name from the root": (archive(member(b"/etc/w.npy")), "'/etc/w.npy'"),
    "a name for Windows": (archive(member(b"..\\w.npy")), "leads nowhere"),
    "a name with an end": (archive(member(b"w.npy\0.txt")), "leads nowhere"),
    "no name": (archive(member(b"")), "leads nowhere"),
    "a name that is not what it says": (archive(member(b"\xff.npy", flags=0x800)), "codec can't decode"),
    "encrypted": (archive(member(flags=1)), "encrypted"),
    "compressed in another way": (archive(member(method=12)), "in the way 12"),
    "stored in fewer bytes": (archive(member(size=9)), "announces 9"),
    "beyond the end": (archive(member(packed=1 << 20, size=1 << 20)), "would take 1,048,576 bytes"),
    "beyond the end from the start": (
        archive(member(b"v.npy"), member(at=1 << 20)),
        "not where the zip directory says",
    ),
    "another name in its own header": (archive(member()).replace(b"w.npy", b"v.npy", 1), "in its own header"),
    "members that share bytes": (
        archive(member(b"a.npy", archive(member(b"b.npy"))[:110]), member(b"b.npy", at=35)),
        "share bytes",
    ),
    "damaged": (archive(member(crc=1)), "its CRC"),
    "damaged and deflated": (archive(member(data=BOMB, method=8, size=100_068, crc=1)), "its CRC"),
    "not deflated": (archive(member(data=b"\xff" * 99, method=8, size=99)), "cannot be inflated"),
    "deflated, more than announced": (archive(member(data=BOMB, method=8, size=99)), "99 bytes announced"),
    "deflated, less than announced": (archive(member(data=BOMB, method=8, size=100_100)), "100,100 bytes announced"),
    "deflated, without an end": (archive(member(data=BOMB[:-9], method=8, size=100_068)), "bytes announced"),
    "deflated to too much": (archive(member(data=BOMB, method=8, size=200_000)), "unpack to 200,000 bytes"),
    "no npy file": (archive(member(data=b"GIF89a")), "begins with b'GIF89a'"),
    "nothing inside": (archive(member(data=b"")), "begins with b''"),
    "version 3": (archive(member(data=npy().replace(b"\1\0", b"\3\0"))), "version 1 or 2"),
    "a header that ends early": (archive(member(data=npy()[:40])), "EOF: reading array header"),
    "a header of a program": (archive(member(data=npy("__import__('os').abort()"))), "malformed node"),
    "records": (descr("[('a', '<f4')]"), "no records"),
    "objects": (saved(w=np.array([{}, None])), "of the dtype '|O'"),
    "text": (saved(w=np.array(["some", "text"])), "of the dtype '<U4'"),
    "complex numbers": (saved(w=np.zeros(2, np.complex64)), "of the dtype '<c8'"),
    "dates": (descr("'<M8[s]'"), "of the dtype"),
    "two bytes of anything": (saved(w=np.zeros(4, "V2")), "of the dtype '|V2'"),
    "bfloat16 turned round": (descr("'>V2'", bytes(4)), "of the dtype '|V2'"),
    "8 bits of a float": (saved(w=np.zeros(4, ml_dtypes.float8_e5m2)), "not a valid dtype"),
    "more than there is": (shape("(1099511627776,)"), "would take"),
    "less than there is": (shape("(1,)"), "has 8 bytes; expected 4"),
    "a negative axis": (shape("(-2,)"), "none negative"),
    "an axis of many digits": (shape("(" + "9" * 5000 + ",)"), "Cannot parse header"),
    "too many axes": (shape("(" + "1, " * 33 + ")"), "at most 32 axes"),
    "an axis that no array can have": (shape("(0, 4611686018427387904)", b""), "would take"),
    "a bool that is 2": (descr("'|b1'", b"\1\2"), "byte above 1"),
}


@pytest.mark.parametrize(("data", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, words: str) -> None:
    monkeypatch.setattr(_base, "MAX_BYTES", 150_000)
    (path := tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(FileFormatError) as caught:
        dict(formats.read(path, "npz"))
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


def test_hostile_archives_are_readable_without_their_defect(tmp_path: Path) -> None:
    squeezed = member(b"b.npy", deflated(npy()), method=8, size=len(npy()), crc=zlib.crc32(npy()))
    (path := tmp_path / "x.npz").write_bytes(archive(member(b"a.npy"), squeezed, tail=b"hi", comment=2))
    with np.load(path) as theirs:
        assert same(formats.read(path, "npz"), dict(theirs))
    assert same(formats.read(path, "npz"), {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)})


def test_archive_with_too_many_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_zips, "MAX_MEMBERS", 1)
    (path := tmp_path / "x.npz").write_bytes(archive(member(), member(b"v.npy")))
    with pytest.raises(FileFormatError, match="has 2 members; expected at most 1"):
        formats.read(path, "npz")


def test_missing_name_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        formats.read(CHAINER, "npz")["conv1/w"]


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("w", np.zeros(1, np.complex64), "complex64"),
        ("w", np.array([None]), "object"),
        ("w", np.zeros(1, "V2"), "V2"),
        ("../w", np.zeros(1), "leads nowhere"),
        ("/w", np.zeros(1), "leads nowhere"),
        ("w" * 70_000, np.zeros(1), "at most 65,535"),
        ("\ud800", np.zeros(1), "no Unicode text"),
    ],
)
def test_unsupported_tensors_are_not_written(tmp_path: Path, name: str, array: np.ndarray, words: str) -> None:
    with pytest.raises(FileFormatError, match=words):
        formats.write(tmp_path / "x.npz", {name: array})
    assert not list(tmp_path.iterdir())
