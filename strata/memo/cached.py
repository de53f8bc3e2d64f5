"""`@store.cached`: a function whose results are kept in L1 and L2.

A function is a schema of its own, without L3: the key is made of the arguments (`arguments`), the record has one field,
the result. So results are typed, private to the caller, and coherent among processes as records are.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Coroutine
from operator import attrgetter
from types import FunctionType
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from strata.engine.calls import Making
from strata.engine.hot import MISS
from strata.errors import HookError, InvalidConfigError, InvalidModelError, SchemaDuplicateError, shown
from strata.memo.arguments import FAILED, WHOLE, Arguments
from strata.model.compile import Source
from strata.model.fields import MAX_IDENTIFIER
from strata.model.hints import returned, strip
from strata.model.markers import PrimaryKey
from strata.policies import MemPolicy, RedisPolicy, WriteMode
from strata.protocol.markers import Tags, TagsError, checked_tags
from strata.schema import Schema

if TYPE_CHECKING:
    from strata.aio.cached import AsyncCached
    from strata.datastore import DataStore  # which makes memos; only its type is needed here
    from strata.engine.hot import Hot

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")
R = TypeVar("R", covariant=True)


class Cached(Protocol[P, R]):
    """A function whose results are kept, as `DataStore.cached` makes it: called as before, and with three calls more.

    Of a method they take `self`, or the class, too: `Shop.price.invalidate(shop, 7)`.

    >>> @store.cached(ttl=60)
    ... def area(width: int, height: int = 1) -> int:
    ...     print("multiplying")
    ...     return width * height
    >>> area(6, 7)
    multiplying
    42
    >>> area(6, height=7)
    42
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Drop the result of such a call from L1 and L2 of every instance; a call under way is not kept.

        Raises `EncodeError` for arguments that make no key, and `L2UnavailableError` where Redis cannot be told.
        """

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function now, whatever is kept, and keep what it returns; that is returned.

        Raises what the function raises, which leaves what is kept as it is, `EncodeError` for arguments that make no
        key or a result that is not of the type annotated, and `L2UnavailableError` where it cannot be kept.
        """
        ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of such a call, as it stands in Redis behind the function's name.

        Raises `EncodeError` for arguments that make no key.
        """
        ...

    @overload
    def __get__(self, instance: None, owner: Any, /) -> Cached[P, R]: ...
    @overload
    def __get__(self: Cached[Concatenate[Any, Q], R], instance: object, owner: Any, /) -> Callable[Q, R]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """What `cached` was told. `life` and `lease_wait` in seconds; `name` "" is that of the function; `tags` are those
    of every result, or a function of the arguments."""

    life: float | None
    key: Callable[..., Any] | None
    name: str
    lease_wait: float
    tags: Tags | Callable[..., Any] | None = None


class Memo:
    """One function and its results. Immutable, but for `hot`, which is as `Hot` has it; so it needs no lock, and after
    fork nothing is to be done."""

    __slots__ = ("_keys", "_life", "_store", "_tags", "function", "hot", "name", "record")

    def __init__(self, store: DataStore, function: Callable[..., Any], terms: Terms) -> None:
        self._store = store
        self._life = terms.life
        self.function = function
        where = f"{function.__qualname__}()"
        self.name = terms.name or schema_name(function)
        self._tags = terms.tags
        self.record = _record_class(function, where, tagged=terms.tags is not None)
        self._keys = Arguments(function, where, terms.key)
        l2 = RedisPolicy(lease_wait=terms.lease_wait) if store._has_redis else None
        mode = WriteMode.WRITE_THROUGH
        tags = None if terms.tags is None else attrgetter("tags")
        schema: Any = Schema(self.record, name=self.name, l1=MemPolicy(), l2=l2, write_mode=mode, tags=tags)
        try:
            self.hot: Hot = store._register(schema, remade=True)._hot
        except SchemaDuplicateError:
            raise SchemaDuplicateError(
                f"{where} of {function.__module__} would be kept as {self.name!r}, as another function, or schema, is "
                "already; give it another name: cached(name=...)"
            ) from None

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The key of a call. Raises `EncodeError`."""
        return self.hot.bound.plan.key_text(self._keys.text(args, kwargs))

    def call(self, given: tuple[tuple[Any, ...], dict[str, Any]], anew: bool = False) -> Any:
        """The result that is kept, or that of a call now; of a coroutine function what comes of it."""
        args, kwargs = given
        text = self.key(args, kwargs)
        record = functools.partial(self.record, text)
        if self._tags is not None:
            record.keywords["tags"] = self._tags_of(args, kwargs)
        making = Making(functools.partial(self.function, *args, **kwargs), record, anew, self._life)
        return self._store._get_made(self.name, text, making).result

    def _tags_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tags:
        if not callable(self._tags):
            return self._tags or ()
        try:
            return checked_tags(self._tags(*args, **kwargs))
        except TagsError as error:
            raise HookError(f"tags of {self.function.__qualname__}() {error}; it was not called") from None
        except Exception as error:
            raise HookError(
                f"tags of {self.function.__qualname__}() raised {type(error).__name__}; it was not called"
            ) from error

    def refresh(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a call now, which is kept."""
        return self.call((args, kwargs), anew=True)

    def invalidate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Drop what is kept of a call."""
        self._store.delete(self.name, self.key(args, kwargs))

    def wrapped(self) -> Any:
        """The function that users call, where it is no coroutine function."""

        def invalidate(*args: Any, **kwargs: Any) -> None:
            self.invalidate(args, kwargs)

        def refresh(*args: Any, **kwargs: Any) -> Any:
            return self.refresh(args, kwargs)

        return self.with_calls(self.hit("def", "{call}({given})", self.call), invalidate, refresh)

    def hit(self, begin: str, miss: str, call: Any) -> Any:
        """The hit path in a function of the very signature: so Python itself puts each argument in its place, and what
        it costs besides is the text of the key. `miss` is what is returned otherwise."""
        keys = self._keys
        source = Source("cached", taken=set(keys.signature.parameters))
        bind, text, record = source.bind, source.fresh(), source.fresh()
        given = f"{bind(_given)}({keys.passed})"
        source.line("try:")
        source.line(f"{text} = {keys.expression(bind)}", 2)
        source.line(f"if {bind(len)}({text}) > {WHOLE}: {text} = {bind(self._long)}({given})", 2)
        source.line(f"except {bind(FAILED)}: pass")
        source.line("else:")
        source.line(f"{record} = {bind(self.hot.hit)}({text})", 2)
        source.line(f"if {record} is not {bind(MISS)}: return {record}.result", 2)
        source.line(f"return {miss.format(call=bind(call), given=given)}")
        return source.function(keys.declared(bind), begin)

    def _long(self, given: tuple[tuple[Any, ...], dict[str, Any]]) -> str:
        return self.key(*given)

    def with_calls(self, cached: Any, invalidate: Any, refresh: Any) -> Any:
        """The function that users call, with the calls of `Cached`."""

        def key(*args: Any, **kwargs: Any) -> str:
            return self.key(args, kwargs)

        functools.update_wrapper(cached, self.function)
        cached.invalidate, cached.refresh, cached.key = invalidate, refresh, key
        return cached


class Caching:
    """Decorates functions, each of which is a schema of the store from then on."""

    def __init__(self, store: DataStore, terms: Terms) -> None:
        self._store = store
        self._terms = terms

    @overload
    def __call__(  # type: ignore[overload-overlap]  # the first that fits
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> AsyncCached[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> Cached[P, T]: ...
    def __call__(self, function: Any, /) -> Any:
        if not isinstance(function, FunctionType):
            raise InvalidModelError(
                f"cached decorates a function, not {shown(function)}; put it below classmethod or staticmethod"
            )
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidModelError(
                f"{function.__qualname__}() is a generator, which can be gone through once; return a list"
            )
        memo = Memo(self._store, function, self._terms)
        return self._store._awaiting(memo) if inspect.iscoroutinefunction(function) else memo.wrapped()


def _given(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def schema_name(function: Any) -> str:
    """Module and qualified name, as an identifier: `shop.prices.of` is `shop_prices_of`. A longer one is cut in front,
    and ends in the digest of all of it."""
    full = f"{function.__module__}.{function.__qualname__}"
    name = re.sub(r"[^A-Za-z0-9_]+", "_", full)
    if len(name) > MAX_IDENTIFIER or name[0].isdigit():
        digest = hashlib.sha256(full.encode()).hexdigest()[:16]
        name = f"_{name[17 - MAX_IDENTIFIER + 1 :]}_{digest}"
    return name


def tags_of_results(given: Any) -> Tags:
    """The tags that every result has. Raises `InvalidConfigError`."""
    try:
        return checked_tags(given)
    except TagsError as error:
        raise InvalidConfigError(f"tags of cached {error}; or give a function of the arguments") from None


def _record_class(function: Any, where: str, *, tagged: bool) -> Any:
    """The class of the records in which results are kept. Raises `InvalidModelError` for what no field could hold."""
    hint = returned(function)
    if hint is inspect.Parameter.empty:
        raise InvalidModelError(f"{where} has no return annotation; say what it returns, which is how results are kept")
    stripped = strip(hint)
    if stripped.bare in (None, type(None)):
        raise InvalidModelError(f"{where} returns None, which need not be kept; annotate what it returns")
    if stripped.markers:
        raise InvalidModelError(f"{where} returns {shown(stripped.markers[0])}, which marks the field of a record only")
    fields = [("id", Annotated[str, PrimaryKey]), ("result", hint)]
    fields += [("tags", tuple[str, ...])] * tagged
    made = dataclasses.make_dataclass(function.__name__, fields, frozen=True)
    made.__module__ = function.__module__
    return made
