"""What a written file says that it is: its layout, its network or block, and the version that wrote it.

Names and shapes may fit several networks that compute otherwise. Where a format has metadata, the spec itself is
written, and it is compared with what the caller says that the file holds. A file without it is read as before; what a
stranger wrote there is data, and is ignored if it is no spec.
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

from se_spec import LayoutError, NetworkSpec, SEError, SESpec, __version__

KEY = "se_suite"
"""The key of the metadata."""
MAX_CHARACTERS = 1 << 20


class Identity(NamedTuple):
    """What a file says that it is."""

    layout: str
    spec: SESpec | NetworkSpec


def describe(layout: str, spec: SESpec | NetworkSpec) -> dict[str, str]:
    """Make the metadata of a file.

    >>> describe("moskomule", SESpec(64))["se_suite"][:42]
    '{"version": "0.1.0", "layout": "moskomule"'
    """
    kind = "block" if isinstance(spec, SESpec) else "network"
    return {KEY: json.dumps({"version": __version__, "layout": layout, kind: spec.to_dict()})}


def parse(metadata: Mapping[str, str]) -> Identity | None:
    """Read the metadata of a file; None if it says nothing that is known here.

    >>> parse(describe("moskomule", SESpec(64)))
    Identity(layout='moskomule', spec=SESpec(64, hidden=4))
    >>> parse({"format": "pt"})
    """
    text = metadata.get(KEY, "")
    if not text or len(text) > MAX_CHARACTERS:
        return None
    try:
        said = json.loads(text)
        if "block" in said:
            return Identity(str(said["layout"]), SESpec.from_dict(said["block"]))
        return Identity(str(said["layout"]), NetworkSpec.from_dict(said["network"]))
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError, SEError):
        return None


def check_identity(said: Identity | None, spec: SESpec | NetworkSpec) -> None:
    """Refuse a file that says that it is something else.

    Raises:
        LayoutError: the file's spec computes otherwise than the given one.
    """
    if said is None or said.spec == spec:
        return
    if isinstance(said.spec, NetworkSpec) and isinstance(spec, NetworkSpec):
        # Momentum and the usual size of images change no answer.
        if said.spec.replace(momentum=spec.momentum, input_size=spec.input_size) == spec:
            return
        pairs = [(name, getattr(said.spec, name), getattr(spec, name)) for name in said.spec.__dataclass_fields__]
        different = "; ".join(f"{name}: {mine!r} and not {given!r}" for name, mine, given in pairs if mine != given)
        raise LayoutError(f"the file says that it is another network than the given one, with {different[:1000]}")
    raise LayoutError(f"the file says that it holds {str(said.spec)[:300]}; given was {str(spec)[:300]}")
