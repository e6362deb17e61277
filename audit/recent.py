"""A bounded memory of what was used last."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")


class Recent(Generic[_K, _V]):
    """The values used last, up to a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[_K, _V] = OrderedDict()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._values)

    def get(self, key: _K) -> _V | None:
        """Return a value and count it as used, or None."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: _K, value: _V) -> None:
        """Keep a value, and drop what was not used for longest."""
        self._values[key] = value
        if len(self._values) > self._limit:
            self._values.popitem(last=False)

    def drop(self, is_unwanted: Callable[[_K, _V], bool]) -> None:
        """Forget values, wherever they stand."""
        unwanted = [key for key, one in self._values.items() if is_unwanted(key, one)]
        for key in unwanted:
            del self._values[key]

    def clear(self) -> None:
        """Forget all of them."""
        self._values.clear()
