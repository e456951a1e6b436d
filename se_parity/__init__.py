"""The harness: runs this project's own implementations side by side on identical weights.

``se-parity`` compares them on two photographs. ``python -m se_parity.demo`` trains a network in one framework and runs
it in the others. The judge of any block, ``se_conformance``, imports none of them.
"""
