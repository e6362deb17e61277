"""What libraries log, as events of ours: who, how grave and where, not what they quote.

INVARIANT: no log line holds a person's value (rule 8). A library's words, or those of
an exception, may quote one.
"""

import logging
import math
import sys
import traceback
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

from typing_extensions import override

EventDict = MutableMapping[str, Any]

_QUIET_S = 60.0
"""For how long a place that warned is not told again, in seconds."""
_PLACES = 12
"""How many of the innermost places of an exception are written."""


class LibraryHandler(logging.Handler):
    """Tells what libraries log: a warning of one place at most once a minute.

    Whoever can reach a service can have its libraries warn, such as by what is no
    HTTP: no more of it is written than can be read.

    Args:
        tell: Writes an event.
    """

    def __init__(self, tell: Callable[[EventDict], None]) -> None:
        super().__init__()
        self._tell = tell
        self._told: dict[str, float] = {}
        """When each place warned last and was told, in seconds since 1970."""
        self._untold: dict[str, int] = {}
        """How often it has warned since."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        place = f"{record.filename}:{record.lineno} {record.funcName}"
        is_grave = record.levelno > logging.WARNING
        if not is_grave and not self._is_due(place, record.created):
            return
        event: EventDict = {
            "event": "library",
            "timestamp": _written(record.created),
            "level": record.levelname.lower(),
            "library": record.name,
            "place": place,
        }
        if untold := self._untold.pop(place, 0):
            event["untold"] = untold
        if record.exc_info:
            event["exc_info"] = record.exc_info[1]
        self._tell(describe_exception(None, "", event))

    def _is_due(self, place: str, at: float) -> bool:
        """Tell whether a warning is told; count it where not."""
        since = at - self._told.get(place, -math.inf)
        if 0 <= since < _QUIET_S:  # a clock that went back keeps nothing quiet
            self._untold[place] = self._untold.get(place, 0) + 1
            return False
        self._told[place] = at
        return True


def _written(seconds: float) -> str:
    """Return an instant as our own events have it."""
    instant = datetime.fromtimestamp(seconds, UTC)
    return instant.isoformat(timespec="microseconds").replace("+00:00", "Z")


def describe_exception(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Replace an exception by its type and places: its message may quote a value."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exception()
    if isinstance(error, BaseException):
        event["error"] = type(error).__qualname__
        event["places"] = places_of(error)
    return event


def places_of(error: BaseException) -> list[str]:
    """Return where an exception passed, the innermost place last."""
    frames = traceback.extract_tb(error.__traceback__)[-_PLACES:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
