"""How annotations are executed: those with shapes by jaxtyping, all others by beartype alone.

jaxtyping's wrapper binds the arguments of every call, checks them twice and keeps a scope for the
names of axes. Most functions of ours name no axis; around these it would take a third of the time
of all tests and find nothing more.
"""

import functools
import inspect
import types
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import _decorator

_whole = _decorator.jaxtyped
_plain = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def jaxtyped(fn: Any = _decorator._sentinel, *, typechecker: Any = _decorator._sentinel) -> Any:
    """As jaxtyping's own, which wraps what has a shape in it."""
    # a generator is left to jaxtyping, which looks at what is returned and not at what is yielded
    if inspect.isfunction(fn) and callable(typechecker) and not inspect.isgeneratorfunction(fn):
        hints = {
            name: _decorator._destring_annotation(hint, fn.__globals__)
            for name, hint in _annotations(fn)
        }
        if not any(map(_has_shape, hints.values())):
            return _checked(fn, hints)
    return _whole(fn, typechecker=typechecker)


def install() -> None:
    """For all that is imported from now on."""
    jaxtyping.jaxtyped = _decorator.jaxtyped = jaxtyped


def _annotations(fn: types.FunctionType) -> list[tuple[str, Any]]:
    return list(fn.__annotations__.items())


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, list | tuple):  # the arguments of a Callable
        return any(map(_has_shape, hint))
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_has_shape, get_args(hint)))


def _checked(fn: types.FunctionType, hints: dict[str, Any]) -> Any:
    """The function, checked by hints that are no text any more; what it says of itself stays as it
    is.
    """
    if not hints:
        return fn
    copy = types.FunctionType(
        fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__
    )
    functools.update_wrapper(copy, fn)
    del copy.__wrapped__
    copy.__kwdefaults__, copy.__annotations__ = fn.__kwdefaults__, hints
    return functools.update_wrapper(_plain(copy), fn)
