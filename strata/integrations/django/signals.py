"""`invalidate_on_commit`: changes by the ORM are seen without triggers, by Django's signals."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.db import transaction
from django.db.models.signals import post_delete, post_save

from strata.collection import Collection
from strata.errors import InvalidModelError, StrataError, shown


def invalidate_on_commit(model: Any, records: Collection[Any, Any]) -> None:
    """Drop a record from the caches of every process once a `save` or `delete` of the object is committed; where Redis
    cannot be told then, it is told when it is back. What goes wrong is logged by Django, and does not reach the saver.

    `register(Model)` does it by itself. Signals are sent for objects, and by the process that saves them: neither for
    `QuerySet.update`, `bulk_create`, `bulk_update` and raw SQL, nor for what other programs change, and a process that
    is killed right after its commit has told nobody. Triggers (`watch=True`) see all of it, some milliseconds later.
    """
    if not hasattr(model, "_meta"):
        raise InvalidModelError(f"invalidate_on_commit takes a Django model, not {shown(model)}")

    concrete = model._meta.concrete_model

    def changed(instance: Any, using: str, **_: Any) -> None:
        if not isinstance(instance, concrete):
            return  # the sender is whichever class it is of, a proxy's or a child's perhaps
        key = _key_of(concrete, instance)  # which a deletion takes away

        def committed() -> None:
            records._store._committed(records.name, [key])

        connection = transaction.get_connection(using)
        if connection.in_atomic_block or connection.get_autocommit():
            transaction.on_commit(committed, using=using, robust=True)
            return
        # Nobody tells of a commit by hand: it is dropped now, and again when the transaction has ended.
        with suppress(StrataError):
            records.invalidate(key)

    # Once for each model and store.
    place = "strata", concrete._meta.label, records.name, id(getattr(records, "_project", None) or records._store)
    for signal in (post_save, post_delete):
        signal.connect(changed, weak=False, dispatch_uid=place)


def _key_of(concrete: Any, instance: Any) -> Any:
    """The key of an object's row, of the type of its column: an object may have been given a text."""
    meta = concrete._meta
    found = getattr(instance, meta.pk.attname)
    if isinstance(found, tuple):
        return tuple(field.to_python(value) for field, value in zip(meta.pk_fields, found, strict=True))
    return meta.pk.to_python(found)
