"""Checks of arguments, in one way: what was expected, what came, and what to do."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

__all__ = ["check_callable", "check_number", "check_provides", "described", "whole_number", "whole_numbers"]


def described(value: Any) -> str:
    """What a message says that it got: classes by name, and the type of what is no plain value."""
    if isinstance(value, type):
        return f"the class {value.__name__}: call it, {value.__name__}(...), for an instance"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)[:60]
    return f"a {type(value).__name__}"


def check_provides(value: Any, names: Iterable[str], name: str, example: str) -> None:
    """Raise TypeError unless value is an object, no class, with these attributes."""
    if isinstance(value, type) or not all(hasattr(value, each) for each in names):
        raise TypeError(f"{name} must be an object like {example}, got {described(value)}")


def check_callable(function: Any, name: str, parameters: tuple[str, ...]) -> None:
    """Raise TypeError unless function can be called with so many arguments, by position."""
    call = f"{name}({', '.join(parameters)})"
    if not callable(function):
        raise TypeError(f"{name} must be a function, {call}, got {described(function)}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some written in C have none
        return
    try:
        signature.bind(*parameters)
    except TypeError:
        raise TypeError(f"{name} is called as {call}, but takes {signature}") from None


def whole_number(value: Any, name: str, least: int, or_none: bool = False) -> Any:
    """The value as an int, or None where that may be.

    Raises TypeError where it is no whole number, ValueError where it is less than `least`.
    """
    if value is None and or_none:
        return None
    others = ", or None" if or_none else ""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number from {least} on{others}, got {described(value)}")
    if number < least:
        raise ValueError(f"{name} must be {least} or more{others}, got {number}")
    return number


def check_number(value: Any, name: str) -> None:
    """Raise TypeError unless value is one number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {described(value)}")


def whole_numbers(values: Any, name: str, most: int) -> list[int]:
    """Those of a sequence, each in 0..most; none for None."""
    if values is None:
        return []
    try:
        numbers = [
            operator.index(value) for value in ([None] if isinstance(values, (str, bytes)) else values)
        ]
    except TypeError:
        raise TypeError(
            f"{name} must be a sequence of whole numbers, like {name}=({most},), got {described(values)}"
        ) from None
    if any(not 0 <= number <= most for number in numbers):
        raise ValueError(f"{name} must list numbers of updates in 0..{most}, got {numbers}")
    return numbers
