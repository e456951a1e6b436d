"""Files that are structurally valid and hostile: each row of docs/LIMITS.md, each kind of error, each ambiguity."""
