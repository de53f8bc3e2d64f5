"""How records are made from values without running `__init__` or `__post_init__`."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from strata.errors import InvalidModelError
from strata.model.compile import Source
from strata.model.pydantic_models import blank_of, is_pydantic, privates_of
from strata.model.unloaded import UNLOADED

# Assigns the class of an instance, past any `__setattr__`.
_become = object.__dict__["__class__"].__set__


class Maker:
    """Writes the lines that make an instance of one class. `names` are all its fields. In a model's own records some
    may be UNLOADED, so that they are `partial`; those that are `unset` count as not given, to pydantic.

    Assignment is the quickest way to fill an instance. Where the class forbids it (frozen), a *blank* is filled: an
    instance of a subclass of the same layout that allows it, which then becomes one of the class itself. Structs are
    called with their values, for they have no other way; where that would run `__post_init__`, a blank is called.
    What a pydantic model has in its `__dict__` and its slots is assigned, as its validator would.
    """

    def __init__(self, model: Any, names: Sequence[str], *, partial: bool = False, unset: Collection[str] = ()) -> None:
        self.model = model
        self._called = issubclass(model, msgspec.Struct)
        self._validates = is_pydantic(model)
        # It writes out its fields in the order in which they stand in the `__dict__`.
        self.names = tuple(model.__pydantic_fields__) if self._validates else tuple(names)
        self._partial = partial
        self._unset = unset
        self._blank = _blank_struct(model) if self._called else _blank_class(model)

    def emit(
        self,
        source: Source,
        values: Mapping[str, str],
        parts: Sequence[str] = (),
        whole: str = "",
    ) -> None:
        """Lines that make a record of an expression for each field, and return it.

        Where `whole` names a tuple, it is taken apart first: into `v_<field>` for each of `parts`, or straight into
        the record where the field's expression is nothing but that.
        """
        direct = [name for name in parts if values[name] == f"v_{name}"]
        if self._called or self._validates or self._blank is None:
            direct = []
        if not self._called:
            source.line(f"o = {source.bind(object.__new__)}({source.bind(self._blank or self.model)})")
        if parts:
            targets = [f"o.{name}" if name in direct else f"v_{name}" for name in parts]
            source.line(f"{', '.join(targets)}, = {whole}")
        if self._called:
            self._call(source, values)
        elif self._validates:
            self._assign(source, self._state(source, values))
        else:
            self._assign(source, {name: values[name] for name in self.names if name not in direct})
        source.line("return o")

    def _assign(self, source: Source, values: Mapping[str, str]) -> None:
        if self._blank is None:
            setter = source.bind(object.__setattr__)
            for name, value in values.items():
                source.line(f"{setter}(o, {name!r}, {value})")
            return
        for name, value in values.items():
            source.line(f"o.{name} = {value}")
        if self._blank is not self.model:
            source.line(f"o.__class__ = {source.bind(self.model)}")

    def _state(self, source: Source, values: Mapping[str, str]) -> dict[str, str]:
        """An expression for each part of a pydantic model's instance. A field that is UNLOADED counts as not set."""
        held = {}
        for name in self.names:
            held[name] = values[name] if values[name] == f"v_{name}" else f"o_{name}"
            if held[name] != values[name]:
                source.line(f"{held[name]} = {values[name]}")
        given = [name for name in self.names if values[name] != "U" and name not in self._unset]
        source.line(f"d = {{{', '.join(f'{name!r}: {value}' for name, value in held.items())}}}")
        source.line(f"s = {{{', '.join(map(repr, given))}}}" if given else "s = set()")
        if given and self._partial:
            some = " or ".join(f"{held[name]} is U" for name in given)
            source.line(f"if {some}: s = {source.bind(_loaded)}(s, d)")
        privates = privates_of(self.model)
        return {
            "__dict__": "d",
            "__pydantic_fields_set__": "s",
            "__pydantic_extra__": "None",
            "__pydantic_private__": "None" if privates is None else f"{source.bind(privates)}(d)",
        }

    def _call(self, source: Source, values: Mapping[str, str]) -> None:
        positional = getattr(self.model, "__match_args__", ())
        if positional != self.names[: len(positional)]:
            positional = ()
        arguments = [values[name] for name in positional]
        arguments += [f"{name}={values[name]}" for name in self.names if name not in positional]
        source.line(f"o = {source.bind(self._blank)}({', '.join(arguments)})")
        if self._blank is not self.model:
            source.line(f"{source.bind(_become)}(o, {source.bind(self.model)})")


def _loaded(names: set[str], values: Mapping[str, Any]) -> set[str]:
    return {name for name in names if values[name] is not UNLOADED}


def _blank_class(model: Any) -> Any:
    """The class itself where assignment is plain, else its blank, or None where none can be made."""
    try:
        object.__new__(model)
    except TypeError as error:
        raise InvalidModelError(f"{model.__name__} cannot be made without its __init__: {error}") from None
    if is_pydantic(model):
        return _fitting(blank_of(model), model)
    if model.__setattr__ is object.__setattr__:
        return model
    # A subclass must not wake what the user hung on subclassing.
    if type(model) not in (type, ABCMeta) or hasattr(model.__init_subclass__, "__func__"):
        return None
    # Both, for Python keeps one slot for the two, and calls it at C speed only when neither is written in Python.
    plain = {"__slots__": (), "__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    try:
        blank = type(model)(model.__name__, (model,), plain)
    except TypeError:
        return None
    return _fitting(blank, model)


def _fitting(blank: Any, model: Any) -> Any:
    """The blank, if its instances can become ones of the class."""
    try:
        object.__new__(blank).__class__ = model
    except TypeError:
        return None
    return blank


def _blank_struct(model: Any) -> Any:
    if not hasattr(model, "__post_init__"):
        return model
    return msgspec.defstruct(model.__name__, [], bases=(model,), namespace={"__post_init__": lambda self: None})
