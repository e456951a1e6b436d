"""One block of a file that holds a whole network, as ``se-check run --block`` and ``se_check_file`` judge it."""

from importlib.metadata import entry_points
from pathlib import Path

from se_spec import SEError, SESpec

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
