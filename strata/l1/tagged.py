"""Which entries of L1 have a tag, so that a marker finds them, and a hit need not look for it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


class TagIndex:
    """The keys of each tag, and the tags of each key, of the entries that there are. Used under the store's lock."""

    __slots__ = ("_keys", "_tags")

    def __init__(self) -> None:
        self._keys: dict[str, set[Hashable]] = {}
        self._tags: dict[Hashable, Sequence[str]] = {}

    def put(self, key: Hashable, tags: Sequence[str]) -> None:
        """The key's entry has these tags, and no others."""
        if self._tags.get(key) == tags:
            return
        self.drop(key)
        if tags:
            self._tags[key] = tags
            for tag in tags:
                self._keys.setdefault(tag, set()).add(key)

    def drop(self, key: Hashable) -> None:
        """There is no such entry any more."""
        for tag in self._tags.pop(key, ()):
            keys = self._keys.get(tag)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._keys[tag]

    def tags(self, key: Hashable) -> Sequence[str]:
        """The tags of a key, none where there is no such entry."""
        return self._tags.get(key, ())

    def keys(self, tag: str) -> Sequence[Hashable]:
        """The keys of a tag, as they are now."""
        return tuple(self._keys.get(tag, ()))

    def clear(self) -> None:
        """There are no entries any more."""
        self._keys.clear()
        self._tags.clear()
