"""Evidence about this repository: one module, one page of docs/. Not shipped."""
