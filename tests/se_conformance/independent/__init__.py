"""An independent set of wrong and right Squeeze-and-Excitation blocks, by which the judge itself is measured.

The blocks were written without knowledge of ``se_conformance.faults``. Each is written anew as such code is found in
public repositories, in the habit of its framework, and each wrong block has one mistake. ``load_blocks(framework)``
lists the blocks of one framework; ``python -m evidence.independent_blocks`` judges them.
"""

from .base import FRAMEWORKS as FRAMEWORKS
from .base import STAGES as STAGES
from .base import Block as Block
from .base import load_blocks as load_blocks
