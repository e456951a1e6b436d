"""Frozen vectors: inputs and right answers as files, so that a block in any language can be judged."""

from .exports import HEADER as HEADER
from .exports import JSON as JSON
from .exports import format_header as format_header
from .exports import format_json as format_json
from .frozen import MANIFEST as MANIFEST
from .frozen import TENSORS as TENSORS
from .frozen import Vector as Vector
from .frozen import load as load
from .frozen import write as write
