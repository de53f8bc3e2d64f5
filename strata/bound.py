"""One registered schema with its parts, as the engine, the bus and write-behind see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import iscoroutine, iscoroutinefunction
from typing import TYPE_CHECKING, Any

from strata import waits
from strata.contracts import Codec
from strata.errors import DecodeError, HookError, WriteBehindMaxRetryError, where_of
from strata.freshness import Freshness
from strata.hooks import SchemaHooks
from strata.l1.evicted import Evicted
from strata.l1.tier import L1Tier
from strata.model.plan import ModelPlan
from strata.observe.counters import Counters
from strata.observe.log import SafeLogger
from strata.policies import WriteMode
from strata.protocol.markers import Tags, TagsError, checked_tags
from strata.schema import Schema
from strata.waits.clock import Clock
from strata.waits.hub import NoLoopError

if TYPE_CHECKING:
    from strata.l2.kept import Searches
    from strata.l2.tier import L2Tier
    from strata.l3.pool import Database
    from strata.l3.table import Table


@dataclass(frozen=True, slots=True)
class Rows:
    """Where a schema's rows are: their table, the primary, and the replica for queries where one is set."""

    table: Table
    primary: Database
    replica: Database | None


@dataclass(slots=True, eq=False)
class Bound:
    """A schema bound to a store. Everything but the counters is fixed once `register` has returned."""

    name: str
    schema: Schema[Any]
    plan: ModelPlan[Any]
    mode: WriteMode
    hooks: Callbacks
    l1: L1Tier
    l2: L2Tier | None
    searches: Searches
    l3: Rows | None
    codec: Codec  # of what L2 holds
    cipher: Any
    counters: Counters
    clock: Clock
    freshness: Freshness
    log: SafeLogger
    tagger: Tagger | None = None  # where it has tags
    remade: bool = False  # whether its records are results, which are made again: then no tier of it is the lowest
    lacking: str = ""  # what its first use is refused with, where a tier has no address
    deferred: bool = field(init=False)  # whether `set` and `delete` are written behind
    rows: Rows = field(init=False)  # those of a schema that has L3; nobody asks of another one

    def __post_init__(self) -> None:
        self.deferred = self.mode is WriteMode.WRITE_BEHIND
        if self.l3 is not None:
            self.rows = self.l3

    @property
    def heard_by_bus(self) -> bool:
        """Whether other processes may know better than L1: it is not the schema's lowest tier."""
        return self.l2 is not None or self.l3 is not None

    def record(self, values: Sequence[Any], names: Sequence[str] | None = None) -> Any:
        """The record of a row, or of these columns of one. Raises `DecodeError`, which is counted."""
        try:
            return self.plan.from_row(values, self.cipher, names)
        except DecodeError as error:
            held = dict(zip(names or self.plan.column_names, values, strict=False))
            error.schema, error.key = self.name, self.plan.key.within(held)
            self.counters.unreadable += 1
            raise

    def leave_out(self, error: DecodeError) -> None:
        """A row that cannot be read was left out of what goes over many of them: that is said, and no more."""
        self.log.warning(
            "rows that cannot be read are left out",
            schema=self.name,
            column=error.column,
            reason=error.args[0],
            count=1,
        )


class _Omitted:
    """Stands, for the function of tags, where caches hold nothing: it cannot be used."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return _Omitted
        raise TagsError("use a field that is OmitCache or OmitL1, which is not in every cache")


def _unusable(self: Any, *args: Any) -> Any:
    raise TagsError("use a field that is OmitCache or OmitL1, which is not in every cache")


for _name in (
    "str repr format eq ne lt le gt ge hash bool len iter getitem contains call add radd mod mul int float index"
).split():
    setattr(_Omitted, f"__{_name}__", _unusable)
_OMITTED = _Omitted()


class Tagger:
    """The function of a schema's tags, which sees of a record what every cache holds of it. Immutable, but for the
    counters."""

    def __init__(self, schema: Schema[Any], plan: ModelPlan[Any], counters: Counters, log: SafeLogger) -> None:
        assert schema.tags is not None
        self._function = schema.tags
        self._schema = schema.name
        self._plan = plan
        self._counters = counters
        self._log = log
        self._omitted = {column.name: _OMITTED for column in plan.columns if column.omit_cache or column.omit_l1}

    def checked(self, record: Any) -> None:
        """Before a whole record is written. Raises `HookError` where the function raises, or returns what is none."""
        try:
            self._of(record)
        except TagsError as error:
            self._counters.hook_errors += 1
            raise HookError(f"tags of schema {self._schema!r} {error}; nothing was done") from None
        except Exception as error:
            self._counters.hook_errors += 1
            raise HookError(
                f"tags of schema {self._schema!r} raised {type(error).__name__}; nothing was done"
            ) from error

    def __call__(self, record: Any) -> Tags | None:
        """Those of a record that is to be cached, or was; None where they cannot be told, which is logged."""
        try:
            return self._of(record)
        except Exception as error:  # noqa: BLE001 a row of others is read all the same, and not cached
            self._counters.hook_errors += 1
            self._log.error("hook raised", schema=self._schema, hook="tags", **_raised_by(self._function, error))
            return None

    def of_kept(self, value: Any) -> Tags | None:
        """As `__call__`, of a record as L1 keeps it."""
        return self(self._plan.thaw(value))

    def _of(self, record: Any) -> Tags:
        if self._omitted:
            names = (name for name in self._plan.column_names if name not in self._omitted)
            record = self._plan.part({name: getattr(record, name) for name in names} | self._omitted)
        given = self._function(record)
        if iscoroutine(given):
            given.close()
        return checked_tags(given)


def _raised_by(hook: Callable[..., Any], error: Exception) -> dict[str, str]:
    """What, and at which line of the hook itself; where nothing awaits it, what would be right."""
    if isinstance(error, NoLoopError):
        return {"error": str(error), "where": getattr(hook, "__qualname__", type(hook).__name__)}
    depth, trace = 0, error.__traceback__
    while trace is not None and _is_ours(trace.tb_frame.f_globals.get("__name__")):
        depth, trace = depth + 1, trace.tb_next
    return {"error": type(error).__name__, "where": where_of(error, depth)}


def _is_ours(module: Any) -> bool:
    return str(module).partition(".")[0] in ("strata", "asyncio", "concurrent", "greenlet", "uvloop")


class Callbacks:
    """The user's hooks, run so that the right ones abort and the others hide nothing. Immutable, but for the counters,
    which are as `Counters` has it, and `_evicting`."""

    __slots__ = (
        "_counters", "_evicting", "_hooks", "_log", "_plan", "_schema", "before_set_awaited", "before_set_given",
        "get_given",
    )  # fmt: skip

    def __init__(
        self, schema: str, hooks: SchemaHooks[Any], plan: ModelPlan[Any], counters: Counters, log: SafeLogger
    ) -> None:
        self._schema = schema
        self._hooks = hooks
        self._plan = plan
        self._counters = counters
        self._log = log
        self._evicting: set[int] = set()  # the threads that are in `on_evict`; each use is one call
        self.before_set_given = hooks.before_set is not None
        self.before_set_awaited = iscoroutinefunction(hooks.before_set)
        self.get_given = hooks.before_get is not None or hooks.after_get is not None

    def before_set(self, record: Any) -> Any:
        """The record, or the replacement that `before_set` returned. Raises `HookError`."""
        if self._hooks.before_set is None:
            return record
        replaced = self._abort("before_set", self._hooks.before_set, record)
        return record if replaced is None else replaced

    def before_get(self, key: Any) -> None:
        """Raises `HookError` where `before_get` raised."""
        if self._hooks.before_get is not None:
            self._abort("before_get", self._hooks.before_get, key)

    def after_set(self, record: Any) -> None:
        if self._hooks.after_set is not None:
            self._tell("after_set", self._hooks.after_set, record)

    def after_get(self, record: Any) -> Any:
        """The record, or the replacement that `after_get` returned."""
        if self._hooks.after_get is None:
            return record
        replaced = self._tell("after_get", self._hooks.after_get, record)
        return record if replaced is None else replaced

    def evicted(self, gone: Sequence[Evicted]) -> None:
        if self._hooks.on_evict is None or (me := waits.ident()) in self._evicting:
            return  # what leaves for a call of the hook's own: to tell of it might never end
        try:
            self._evicting.add(me)
            for item in gone:
                self._tell("on_evict", self._hooks.on_evict, item.key, self._plan.thaw(item.value))
        finally:
            self._evicting.discard(me)

    def write_error(self, key: Any, error: WriteBehindMaxRetryError) -> None:
        self._tell("on_write_error", self._hooks.on_write_error, key, error)

    def _abort(self, name: str, hook: Callable[..., Any], *args: Any) -> Any:
        try:
            return waits.awaited(hook(*args))
        except Exception as error:
            self._counters.hook_errors += 1
            said = f"cannot be awaited: {error}" if isinstance(error, NoLoopError) else f"raised {type(error).__name__}"
            raise HookError(f"{name} of schema {self._schema!r} {said}; nothing was done") from error

    def _tell(self, name: str, hook: Callable[..., Any] | None, *args: Any) -> Any:
        if hook is None:
            return None
        try:
            return waits.awaited(hook(*args))
        except Exception as error:  # noqa: BLE001 a notification never hides the result of the call
            self._counters.hook_errors += 1
            self._log.error("hook raised", schema=self._schema, hook=name, **_raised_by(hook, error))
            return None
