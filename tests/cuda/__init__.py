"""What a GPU can change, checked in one run: ``DEVICE=cuda python -m pytest tests/cuda``, or ``make test-cuda``."""
