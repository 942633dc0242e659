"""One file per published method; the folder is the registry, and a method's name its file's stem.

Adding a file adds a method. Looking one up imports that file and no other.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isdh.errors import InputError, unknown
from isdh.registry import Registry

if TYPE_CHECKING:
    from isdh.method import Method


class _Methods(Registry):
    def pick(self, module: Any) -> Any:
        """The one subclass of Method that the file defines."""
        from isdh.method import Method

        for value in vars(module).values():
            is_method = inspect.isclass(value) and issubclass(value, Method)
            if is_method and value.__module__ == module.__name__:
                return value
        raise TypeError(f"{module.__name__} defines no subclass of isdh.method.Method")


METHODS = _Methods("method", __name__, Path(__file__).parent)


def build(name: str, *, bits: int, num_classes: int, **hyper: Any) -> Method:
    """Make a method by name.

    Args:
        name: a key of METHODS, e.g. "isdh".
        bits: the code length.
        num_classes: the number of labels.
        **hyper: the method's own hyper-parameters; what is left out has its published default.

    Raises:
        InputError: an unknown name or hyper-parameter, or a value out of range.
    """
    method = METHODS[name]
    known = set(inspect.signature(method).parameters) - {"bits", "num_classes"}
    for key, value in hyper.items():
        if key not in known:
            raise unknown(f"hyper-parameter of {name}", key, known)
        default = inspect.signature(method).parameters[key].default
        if isinstance(default, float) and type(value) not in {int, float}:
            raise InputError(f"{key}={value!r}: want a number; YAML reads 1e-1 as text, not 1.0e-1")
        if type(default) is int and type(value) is not int:
            raise InputError(f"{key}={value!r}: want a whole number")
    if bits < 1:
        raise InputError(f"bits={bits}: a code has at least 1 bit")
    if num_classes < 1:
        raise InputError(f"num_classes={num_classes}: there must be at least 1 label")
    built: Method = method(bits=bits, num_classes=num_classes, **hyper)
    return built


def settings(method: Method) -> dict[str, Any]:
    """The hyper-parameters in effect, by the names of the method's signature."""
    names = set(inspect.signature(type(method)).parameters) - {"bits", "num_classes"}
    return {name: getattr(method, name) for name in sorted(names)}
