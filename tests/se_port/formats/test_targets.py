"""A write is whole or leaves nothing: after failures, kills and signals, beside other programs, over what exists."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

import se_numpy
import se_port
from se_port import formats
from se_port.__main__ import main
from se_port.formats import _buffers, _targets, npz, orbax
from se_spec import FileFormatError, SESpec, network

from .tensors import same
from .test_contract import CASES, Case, every_case

SPEC = SESpec(64)
TENSORS = {"a": np.arange(6.0, dtype="f4"), "b": np.ones((3, 4), "f4")}


def names_in(folder: Path) -> list[str]:
    return sorted(inner.name for inner in folder.iterdir())


@pytest.mark.parametrize("most", [4, 150], ids=["some", "many"])
@every_case
def test_after_every_fault_the_old_or_the_new_file_is_whole_and_alone(case: Case, most: int) -> None:
    name = next(name for name, known in CASES.items() if known is case)
    most = min(most, 3) if case.format == "orbax" else most  # each of whose writes is a new process
    code = (
        "from tests.se_port.formats import faults, test_contract as t;"
        f"c = t.CASES[{name!r}]; faults.try_writes(c.format, c.file, c.tensors(), {most})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


FULL = """
import os, resource, signal, sys, time
import numpy as np
from se_port import formats
from se_spec import FileFormatError

rng = np.random.default_rng(0)
tensors = {f"block{number}/kernel": rng.random((200, 50)).astype("f4") for number in range(60)}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for size in (0, 1, 100, 30000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        formats.write("net", tensors, "orbax")
    except FileFormatError:
        time.sleep(0.3)
    else:
        sys.exit("written")
    if os.listdir():
        sys.exit(f"left at {size} bytes: {os.listdir()}")
"""


@pytest.mark.framework("port-orbax")
def test_threads_of_a_library_leave_nothing_after_a_failure(tmp_path: Path) -> None:
    """TensorStore's threads go on after the error, and would make the folder anew."""
    done = subprocess.run([sys.executable, "-c", FULL], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr.splitlines()[-1]


class Interrupting(Mapping[str, np.ndarray]):
    """Tensors, at whose second access a signal arrives."""

    def __init__(self, number: int) -> None:
        self.number, self.left = number, 2

    def __getitem__(self, name: str) -> np.ndarray:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), self.number)
        return TENSORS[name]

    def __iter__(self) -> Iterator[str]:
        return iter(TENSORS)

    def __len__(self) -> int:
        return len(TENSORS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    "file", ["x.npz", "new/x.pth", "x.index", pytest.param("x.h5", marks=pytest.mark.framework("port"))]
)
def test_a_signal_ends_the_program_as_usual_and_leaves_nothing(tmp_path: Path, number: int, file: str) -> None:
    tensors = f"Interrupting({int(number)})"
    if file == "x.h5":
        tensors = f"{{f'l/{{k}}': v for k, v in {tensors}.items()}}"
    code = (
        "from tests.se_port.formats.test_targets import *;"
        # a program that runs in the background may inherit that it ignores them
        f"signal.signal({int(number)}, signal.default_int_handler if {number == signal.SIGINT} else signal.SIG_DFL);"
        f"formats.write({str(tmp_path / file)!r}, {tensors})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -number
    assert names_in(tmp_path) == []


def test_a_program_keeps_its_own_handlers(tmp_path: Path) -> None:
    seen: list[int] = []
    others = [signal.SIGINT, signal.SIGHUP]
    usual = [signal.getsignal(number) for number in others]
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        formats.write(tmp_path / "x.npz", Interrupting(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
    assert same(formats.read(tmp_path / "x.npz"), TENSORS)
    assert [signal.getsignal(number) for number in others] == usual


@pytest.mark.parametrize("file", ["x.npz", "x.index"])
def test_a_second_writer_of_a_file_waits_for_the_first(tmp_path: Path, file: str) -> None:
    with _targets.stage(tmp_path / file, force=False) as staged:
        other = threading.Thread(target=formats.write, args=(tmp_path / file, TENSORS), kwargs={"force": True})
        other.start()
        other.join(0.3)
        assert other.is_alive()
        staged.write_bytes(b"first")
    other.join(30)
    assert same(formats.read(tmp_path / file), TENSORS)
    assert not any(name.startswith(".") for name in names_in(tmp_path))


def test_a_writer_that_never_ends_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_targets, "LONGEST_WAIT", 0.1)
    with (
        _targets.stage(tmp_path / "x.npz", force=False) as staged,
        pytest.raises(FileFormatError, match="being written by another program"),
    ):
        formats.write(tmp_path / "x.npz", TENSORS)
    assert not staged.parent.exists()


def test_without_locks_every_write_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    formats.write(tmp_path / "x.npz", TENSORS)
    assert names_in(tmp_path) == ["x.npz"]


@pytest.mark.parametrize("exchanged", [True, False])
@pytest.mark.framework("port-orbax")
def test_a_checkpoint_folder_is_replaced_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanged: bool
) -> None:
    if not exchanged:
        monkeypatch.setattr(_targets, "_exchange", lambda one, other: False)
    net = tmp_path / "net"
    formats.write(net, {"a": TENSORS["a"]}, "orbax")
    assert orbax.is_own_folder(net)
    formats.write(net, TENSORS, "orbax", force=True)
    assert same(formats.read(net), TENSORS)
    assert names_in(tmp_path) == ["net"]
    (net / "d" / "thesis.tex").write_text("precious")
    for format in ("orbax", "npz"):
        with pytest.raises(FileFormatError, match="no write of this format makes"):
            formats.write(net, TENSORS, format, force=True)
    assert (net / "d" / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nowhere", "link", "file"])
def test_what_may_be_replaced(tmp_path: Path, kind: str, force: bool) -> None:
    path, other = tmp_path / "x.npz", tmp_path / "other"
    if kind == "folder":
        path.mkdir()
        (path / "thesis.tex").write_text("precious")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "file":
        path.write_text("old")
    else:
        path.symlink_to(other)
        if kind == "link":
            other.write_text("precious")
    before = names_in(tmp_path)
    if force and kind not in ("folder", "pipe"):
        formats.write(path, TENSORS, force=True)
        assert same(formats.read(path), TENSORS)
        assert not path.is_symlink()
        assert kind != "link" or other.read_text() == "precious"
    else:
        with pytest.raises(FileFormatError, match=r"x\.npz: is"):
            formats.write(path, TENSORS, force=force)
        assert kind != "folder" or (path / "thesis.tex").read_text() == "precious"
    assert names_in(tmp_path) == before


def test_a_refused_write_leaves_no_new_folder_and_names_the_target(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.onnx"
    with pytest.raises(FileFormatError) as caught:
        formats.write(path, TENSORS)
    assert str(caught.value).startswith(f"{path}: ")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("place", ["below a file", "too long a name", "in a folder without permission"])
def test_an_error_of_the_system_is_one_line_with_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    se_port.save(tmp_path / "block.safetensors", se_numpy.initialize(SPEC, seed=0), SPEC)
    (tmp_path / "file").touch()
    target = {"below a file": "file/x.npz", "too long a name": "x" * 300 + ".npz"}.get(place, "x.npz")
    if place == "in a folder without permission":

        def refuse(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "mkdir", refuse)
    assert main(["convert", str(tmp_path / "block.safetensors"), str(tmp_path / target), "--to", "canonical"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"se-port: {tmp_path / target}: cannot be written (")
    assert printed.err.count("\n") == 1
    assert names_in(tmp_path) == ["block.safetensors", "file"]


def test_a_checkpoint_of_two_files_is_never_mixed(tmp_path: Path) -> None:
    path = tmp_path / "net.index"
    states = [{"a": np.full(1000, value, "f4"), "b": np.full(1000, value, "f4")} for value in (1, 2)]
    formats.write(path, states[0])
    moves: list[str] = []

    def read_between(new: Path, target: Path) -> None:
        original(new, target)
        moves.append(target.name)
        assert any(same(formats.read(path), state) for state in states)

    original = _targets._move
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_targets, "_move", read_between)
        for round in range(4):
            formats.write(path, states[(round + 1) % 2], force=True)
    assert len(moves) == 10  # files of two shards and an index, and of one shard and an index, twice
    assert names_in(tmp_path) == ["net.data-00000-of-00001", "net.index"]


def test_readers_beside_writers_see_one_state(tmp_path: Path) -> None:
    states = [{"a": np.full(5000, value, "f4")} for value in (1, 2)]
    for file in ("net.index", "net.npz", "net.safetensors"):
        path = tmp_path / file
        formats.write(path, states[0])
        end = time.monotonic() + 0.5
        writers = [threading.Thread(target=_write_until, args=(path, state, end)) for state in states]
        for writer in writers:
            writer.start()
        while time.monotonic() < end:
            tensors = formats.read(path)
            assert any(same(tensors, state) for state in states)
        for writer in writers:
            writer.join()


def _write_until(path: Path, tensors: formats.Tensors, end: float) -> None:
    while time.monotonic() < end:
        formats.write(path, tensors, force=True)


@pytest.mark.framework("keras")
def test_tensorflow_reads_a_checkpoint_that_replaced_another(tmp_path: Path) -> None:
    import tensorflow as tf

    for _ in range(2):
        formats.write(tmp_path / "net.index", TENSORS, force=True)
    assert (tmp_path / "net.data-00001-of-00002").is_file()
    reader = tf.train.load_checkpoint(str(tmp_path / "net"))
    assert same({name: reader.get_tensor(name) for name in TENSORS}, TENSORS)


@pytest.mark.parametrize("most_copied", [0, 64 << 20])
@pytest.mark.parametrize("file", ["x.npz", "x.pth", "x.safetensors", "x.index"])
def test_loaded_arrays_do_not_change_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, most_copied: int
) -> None:
    monkeypatch.setattr(_buffers, "MOST_COPIED", most_copied)
    values, path = se_numpy.initialize(SPEC, seed=0), tmp_path / file
    se_port.save(path, values, SPEC)
    found, loaded = se_port.find_blocks(path), se_port.load(path, SPEC)
    inspected = se_port.inspect(path).blocks
    for inner in tmp_path.iterdir():
        inner.write_bytes(b"")  # in place: whoever still has the file mapped dies of it
    for block in (loaded, *(block.parameters for block in (*found.values(), *inspected.values()))):
        assert all((block[name] == value).all() and block[name].flags.writeable for name, value in values.items())


@pytest.mark.parametrize("file", ["x.npz", "x.pth", "x.safetensors", "x.index"])
@pytest.mark.parametrize("change", ["shorter", "rewritten"])
def test_a_source_that_changes_while_it_is_converted_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, change: str
) -> None:
    monkeypatch.setattr(_buffers, "MOST_COPIED", 0)
    path, net = tmp_path / file, network("se_resnet20")
    se_port.save(path, se_numpy.initialize(net, seed=0), net)
    data = next(inner for inner in sorted(tmp_path.iterdir()) if not inner.name.endswith(".index"))

    def disturb(step: str, done: int, total: int) -> None:
        if change == "shorter":
            os.truncate(data, 10)
        else:
            os.utime(data, ns=(1, 1))

    with pytest.raises(FileFormatError, match="while it was read"):
        se_port.convert(path, tmp_path / "y.npz", net, progress=disturb)
    assert "y.npz" not in names_in(tmp_path)


def test_a_target_that_differs_when_it_is_read_again_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = npz.write

    def write_wrongly(path: Path, tensors: formats.Tensors) -> None:
        original(path, {name: value + (name == "expand.weight") for name, value in tensors.items()})

    monkeypatch.setattr(npz, "write", write_wrongly)
    with pytest.raises(FileFormatError, match=r"expand\.weight differs when it is read again"):
        se_port.convert(se_numpy.initialize(SPEC, seed=0), tmp_path / "x.npz", SPEC)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("file", ["x.npz", "x.index"])
def test_a_file_is_converted_onto_itself(tmp_path: Path, file: str) -> None:
    values, path = se_numpy.initialize(SPEC, seed=0), tmp_path / file
    se_port.save(path, values, SPEC, "moskomule")
    se_port.convert(path, path, SPEC, "moskomule", "canonical", force=True)
    assert same(se_port.load(path, SPEC, "canonical"), values)


def test_what_a_killed_program_left_is_removed(tmp_path: Path) -> None:
    with _targets.stage(tmp_path / "x.npz", force=False) as staged:
        left = staged.parent
        shutil.copytree(left, tmp_path / "copy")
        (tmp_path / "copy" / "x.npz").write_bytes(b"half")
        (tmp_path / "copy" / "folder").mkdir()
        staged.write_bytes(b"first")
    (tmp_path / "copy").rename(left)
    formats.write(tmp_path / "x.npz", TENSORS, force=True)
    assert names_in(tmp_path) == ["x.npz"]


def test_a_folder_that_another_writer_has_made_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove = shutil.rmtree
    again = tmp_path / "again"

    def remove_and_make(folder: Path, ignore_errors: bool = False) -> None:
        remove(folder)
        if not again.exists():
            again.mkdir()
            folder.mkdir()
            (folder / "x.npz").write_text("of the other writer")

    with _targets.stage(tmp_path / "x.npz", force=False) as staged:
        staged.write_bytes(b"first")
        monkeypatch.setattr(shutil, "rmtree", remove_and_make)
    assert staged.read_text() == "of the other writer"
