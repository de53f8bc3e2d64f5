"""A model's outline: a short text that two releases share where they read a kept row alike."""

from __future__ import annotations

import hashlib
import typing
from collections.abc import Sequence
from typing import Any

from strata.model.choices import choices_of, is_choice
from strata.model.columns import Column
from strata.model.hints import declared, is_record, spelled, strip


def outline_of(columns: Sequence[Column]) -> str:
    """A digest of the columns' names, types, members and nested records; the same in every process and any order."""
    parts = []
    for column in columns:
        field = column.field
        told = _told(field.annotation, {})
        parts.append((field.name, field.sql_type, field.nullable, field.encrypted, field.omit_cache, told))
    return hashlib.blake2b(repr(sorted(parts)).encode(), digest_size=8).hexdigest()


def _told(hint: Any, known: dict[Any, int]) -> str:
    """A type in words, without the names of classes. `known` numbers the records that were told before."""
    stripped = strip(hint)
    bare, args = stripped.bare, typing.get_args(stripped.bare)
    if is_choice(bare):
        told = str(sorted(choices_of(bare, "")))
    elif is_record(bare):
        if bare in known:
            told = f"^{known[bare]}"
        else:
            known[bare] = len(known)
            told = str([(item.name, _told(item.hint, known)) for item in declared(bare)])
    elif args:
        told = f"{spelled(typing.get_origin(bare))}[{', '.join(_told(arg, known) for arg in args)}]"
    else:
        told = spelled(bare)
    return f"{told}?" if stripped.nullable else told
