"""Names that tell where to import them from. Called once by each face, at its end."""

from __future__ import annotations

import sys
from types import FunctionType

__all__ = ["show_public_paths"]


def show_public_paths(face: str) -> None:
    """Let tracebacks and documentation name things by the face that offers them.

    Records keep the module they were defined in: msgspec and `typing.get_type_hints` look
    the names in their annotations up there.

    Args:
        face: The name of a package whose `__all__` is complete.
    """
    module = sys.modules[face]
    for name in module.__all__:
        value = getattr(module, name)
        is_exception = isinstance(value, type) and issubclass(value, BaseException)
        is_plain = isinstance(value, type) and "__annotations__" not in vars(value)
        if is_exception or is_plain or isinstance(value, FunctionType):
            value.__module__ = face
