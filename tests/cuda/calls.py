"""Calls a check by its name, so that the process that asks imports no framework."""

import importlib


def call_check(module: str, name: str, *arguments: object) -> None:
    """``name(*arguments)`` of a module beside this one."""
    getattr(importlib.import_module(f"{__package__}.{module}"), name)(*arguments)
