"""Enum and Literal: the values a column may have, which are all texts or all ints."""

from __future__ import annotations

import enum
import typing
from collections.abc import Callable, Mapping
from typing import Any

from strata.errors import InvalidModelError
from strata.model.atoms import Unfit, check_text, wrong
from strata.model.hints import spelled


def is_enum(hint: Any) -> bool:
    """Whether the type is an Enum."""
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


def is_choice(hint: Any) -> bool:
    """Whether the type is an Enum or a Literal."""
    return is_enum(hint) or typing.get_origin(hint) is typing.Literal


def choices_of(hint: Any, where: str) -> Mapping[str, Any]:
    """The members of an Enum or Literal by the text that stands for each.

    Raises `InvalidModelError` where their values are not all texts, or all ints.
    """
    if is_enum(hint) and issubclass(hint, enum.Flag):
        raise InvalidModelError(f"{where} is {spelled(hint)}, a Flag, whose values combine; use an int or a set")
    members = list(hint) if is_enum(hint) else list(typing.get_args(hint))
    values = [value_of(member) for member in members]
    ints = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    if not values or not (ints or all(isinstance(value, str) for value in values)):
        raise InvalidModelError(f"{where} is {spelled(hint)}, whose values must be all str or all int")
    for value in values:
        try:
            check_text(str(value))
        except Unfit as problem:
            raise InvalidModelError(f"{where}: a value of {spelled(hint)} {problem}") from None
    return {text_of(member): member for member in members}


def noun_of(hint: Any) -> str:
    """The choices in words."""
    if not is_enum(hint):
        return f"one of {', '.join(map(repr, typing.get_args(hint)))}"
    article = "an" if spelled(hint)[:1] in "AEIOU" else "a"
    return f"{article} {spelled(hint)} ({', '.join(repr(value_of(member)) for member in hint)})"


def normal_choice(hint: Any, choices: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A function that gives the choice that a value is, or raises `Unfit`."""
    noun = noun_of(hint)
    kinds = (hint,) if is_enum(hint) else tuple({type(choice) for choice in choices.values()})

    def normal(value: Any) -> Any:
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise wrong(value, noun)
        choice = choices.get(text_of(value))
        if choice is None:
            raise Unfit(f"is none of the choices; it must be {noun}")
        return choice

    return normal


def value_of(member: Any) -> Any:
    """The str or int that a member stands for."""
    return member.value if isinstance(member, enum.Enum) else member


def plain_of(member: Any) -> Any:
    """The str or int that a member stands for, as exactly that type."""
    value = value_of(member)
    return str.__str__(value) if isinstance(value, str) else int.__int__(value)


def text_of(member: Any) -> str:
    """The text that stands for a member."""
    value = value_of(member)
    return str.__str__(value) if isinstance(value, str) else int.__repr__(value)
