"""Blocks in files: one of a whole network, as ``se-check run --block`` and ``se_check_file`` judge it; TorchScript."""

import warnings
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from se_spec import SEError, SESpec
from se_spec.texts import shorten

from .adapters import AdaptedBlock, adapt


def cut_block(path: str | Path, block: str) -> tuple[AdaptedBlock, SESpec]:
    """Cut a block out of a file by the package that declares it can (the entry points ``se_conformance.blocks``).

    Args:
        path: a file; its ending names the format.
        block: the block, as ``se-port inspect`` shows it.

    Returns:
        The block, and the spec that the file's graph has.

    Raises:
        SEError: no installed package cuts files of this format into blocks, or the file has no such block.
    """
    cutters = entry_points(group="se_conformance.blocks")
    cutter = next((entry for entry in cutters if entry.name == str(path).rpartition(".")[2]), None)
    if cutter is None:
        known = ", ".join(f".{entry.name}" for entry in cutters) or "none that is installed"
        raise SEError(f"a block is cut out of a file of one of the formats {known}; got {str(path)!r}")
    cut = cutter.load()(path, block)
    return adapt(cut.model, names=cut.names), cut.spec


def load_script(path: str | Path, block: str | None = None, *, trusted: bool) -> Any:
    """Load a TorchScript file, which runs code of the file.

    Args:
        path: written by ``torch.jit.save``.
        block: the path of a submodule, such as ``"layer1.0.se"``; None for the whole module.
        trusted: whether the user has agreed that the file's code runs.

    Returns:
        A ``torch.jit.ScriptModule``.

    Raises:
        SEError: the file is not trusted or is no TorchScript, or it has no such submodule.

    Example:
        >>> load_script("block.pt", trusted=False)
        Traceback (most recent call last):
        se_spec.errors.SEError: block.pt may be TorchScript, whose code runs when it is loaded; add --trust if you agree
    """
    if not trusted:
        raise SEError(f"{path} may be TorchScript, whose code runs when it is loaded; add --trust if you agree")
    if not Path(path).is_file():
        raise SEError(f"{str(path)!r} is not a file")
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, to those who write it
            module = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:
        raise SEError(
            f"{path} is no TorchScript that torch loads ({type(error).__name__}: {shorten(error)})"
        ) from error
    if block is None:
        return module
    found = dict(module.named_modules())
    if block not in found:
        names = ", ".join(repr(name) for name in found if name)
        raise SEError(f"there is no submodule {block!r}; there are {shorten(names) or 'none'}")
    return found[block]
