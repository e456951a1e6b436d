"""``python -m se_spec`` prints docs/PRESETS.md."""

from .presets import table

print(table())
