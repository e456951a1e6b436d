"""Lets the builder show the examples in docstrings as code: they are no Markdown."""

from typing import Any

import griffe

from evidence.site.api import fence_examples


class FenceExamples(griffe.Extension):
    """Changes each docstring when its object has been read."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Put the examples of an object into fences."""
        if obj.docstring is not None:
            obj.docstring.value = fence_examples(obj.docstring.value)
