"""The harness: this project's own implementations side by side, on identical weights.

``se-parity`` compares all of them on two photographs; ``python -m se_parity.demo`` trains a network in one framework
and runs it in the others. ``se_conformance`` is the judge of anybody's block, and knows none of them.
"""
