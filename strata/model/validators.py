"""The validators of pydantic models, for records that are to be stored.

A record counts as it is now: it may have been changed since it was made, or made by `model_construct`. So its fields
are given to its class's validator anew, nested records first. What is handed out was stored, and is not validated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from strata.errors import InvalidModelError, StrataError, where_of
from strata.model.atoms import Unfit
from strata.model.compile import Function, Source
from strata.model.hints import declared
from strata.model.instances import Maker
from strata.model.pydantic_models import core, is_pydantic

# What an error of pydantic's may say: facts of the model, and how many items there are, but nothing of the value.
_FACTS = frozenset(
    "gt ge lt le multiple_of min_length max_length actual_length field_type pattern expected class class_name "
    "max_digits decimal_places whole_digits expected_version tz_expected".split()
)
_MOST = 5  # fields that a message names


class Validator:
    """The validator of one class. It raises `Unfit`, which tells class, field and rule, and never a value: for that
    reason pydantic's own error, which holds the input, is neither its cause nor its context."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.names = tuple(model.__pydantic_fields__)
        self._keys, self._options = _keys(model)
        self._fields = {key: name for name, key in self._keys.items()} | {name: name for name in self.names}

    def whole(self, values: Mapping[str, Any]) -> Any:
        """The record that the validator makes of values by field."""
        given = {self._keys[name]: value for name, value in values.items()}
        # The class's own one is asked for each time: it may be built anew.
        made = self._told(lambda: self._model.__pydantic_validator__.validate_python(given, **self._options))
        if type(made) is not self._model:
            raise Unfit(f"{self._model.__name__} has a validator that makes a {type(made).__name__} of the record")
        return made

    def parts(self) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        """A function that validates some fields, each by its own rules, without those of the whole record.

        Raises `InvalidModelError` for a model whose fields cannot be found, since its core schema is another.
        """
        try:
            validator = core().SchemaValidator(_schema_of_parts(self._model))
        except (KeyError, TypeError, core().SchemaError):
            raise InvalidModelError(
                f"{self._model.__name__} has a core schema that is not made of fields; leave out its "
                "__get_pydantic_core_schema__"
            ) from None
        return lambda values: self._told(lambda: validator.validate_python(dict(values)))

    def _told(self, validate: Callable[[], Any]) -> Any:
        try:
            return validate()
        except StrataError:
            raise
        except core().ValidationError as error:
            problem = self._said(error)
        except Exception as error:  # noqa: BLE001 a validator of the user's
            kind, where = type(error).__name__, where_of(error)
            problem = f"{self._model.__name__} has a validator that raises {kind} ({where})"
        raise Unfit(problem)

    def _said(self, error: Any) -> str:
        found: dict[str, list[str]] = {}
        for item in error.errors(include_url=False, include_input=False):
            field = self._fields.get(item["loc"][0]) if item["loc"] else None
            where = self._model.__name__ if field is None else f"{self._model.__name__}.{field}"
            found.setdefault(where, []).append(_rule(item))
        told = [f"{where} is refused by the model's validators: {', '.join(why)}" for where, why in found.items()]
        return "; ".join(told[:_MOST])


def inside(classes: Collection[Any]) -> Callable[[Any], Any] | None:
    """A function that validates the records of these classes within a value; None where that would be nothing to do.

    It gives the value with what their validators make of them. What is of no shape that it knows it leaves as it is,
    for those who look at the value as a whole.
    """
    if not any(map(is_pydantic, classes)):
        return None
    records: dict[Any, Callable[[Any], Any]] = {}

    def validated(value: Any) -> Any:
        kind = type(value)
        if kind in records:
            return records[kind](value)
        if kind is dict:
            return {key: validated(item) for key, item in value.items()}
        if kind in (list, tuple, set, frozenset):
            return kind([validated(item) for item in value])
        return value

    for model in classes:
        records[model] = _revalidated(model, validated) if is_pydantic(model) else _rebuilt(model, validated)
    return validated


def _revalidated(model: Any, part: Callable[[Any], Any]) -> Callable[[Any], Any]:
    validator = Validator(model)

    def record(value: Any) -> Any:
        fields = value.__dict__
        return validator.whole({name: part(fields[name]) for name in validator.names if name in fields})

    return record


def _rebuilt(model: Any, part: Callable[[Any], Any]) -> Function:
    names = [item.name for item in declared(model)]
    source = Source("rebuilt", "record")
    validated = source.bind(part)
    Maker(model, names).emit(source, {name: f"{validated}(record.{name})" for name in names})
    return source.function()


def _keys(model: Any) -> tuple[dict[str, str], dict[str, bool]]:
    """How the validator is given each field, and with which options.

    By its alias, as the constructor is, since validators that run before see these keys. By the name, with the aliases
    left out, where aliases are paths or choices, or could be taken for names, or are not to be used.
    """
    aliases = {name: item.validation_alias for name, item in model.__pydantic_fields__.items()}
    keys = {name: name if alias is None else alias for name, alias in aliases.items()}
    others = [alias for name, alias in aliases.items() if alias is not None and alias != name]
    plain = all(isinstance(alias, str) and alias not in aliases for alias in others)
    if plain and len(set(others)) == len(others) and model.model_config.get("validate_by_alias", True):
        return keys, {}
    return {name: name for name in aliases}, {"by_alias": False, "by_name": True}


def _schema_of_parts(model: Any) -> dict[str, Any]:
    """A core schema of the model's fields, by their names, of which any may be missing and has no default then."""
    schema, config = model.__pydantic_core_schema__, {}
    known: dict[str, Any] = {}
    while schema["type"] != "model-fields":
        if schema["type"] == "definitions":
            known |= {item["ref"]: item for item in schema["definitions"]}
        if schema["type"] == "model":
            config = schema.get("config", {})
        schema = known[schema["schema_ref"]] if schema["type"] == "definition-ref" else schema["schema"]
    fields = {}
    for name, item in schema["fields"].items():
        inner = item["schema"]
        while inner["type"] == "default":
            inner = inner["schema"]
        fields[name] = {"type": "typed-dict-field", "schema": inner, "required": False}
    parts = {"type": "typed-dict", "fields": fields, "config": config}
    return {"type": "definitions", "schema": parts, "definitions": list(known.values())} if known else parts


def _rule(item: Mapping[str, Any]) -> str:
    """The rule that was broken: its name, and pydantic's words for it where these can hold nothing of the value."""
    facts = {name: fact for name, fact in item.get("ctx", {}).items() if name in _FACTS}
    try:
        return f"{core().PydanticKnownError(item['type'], facts or None).message()} ({item['type']})"
    except (KeyError, TypeError, ValueError):  # a rule of the user's own, or one whose words hold the input
        return str(item["type"])
