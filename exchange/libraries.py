"""What libraries log, as events of ours: who, how grave and where, not what they quote.

INVARIANT: no log line holds a person's value (rule 8). A library's words, or those of
an exception, may quote one.
"""

import logging
import sys
import traceback
from collections.abc import Callable, MutableMapping
from typing import Any

from typing_extensions import override

EventDict = MutableMapping[str, Any]

_PLACES = 12
"""How many of the innermost places of an exception are written."""


class LibraryHandler(logging.Handler):
    """Tells what libraries log.

    Args:
        tell: Writes an event.
    """

    def __init__(self, tell: Callable[[EventDict], None]) -> None:
        super().__init__()
        self._tell = tell

    @override
    def emit(self, record: logging.LogRecord) -> None:
        event: EventDict = {
            "event": "library",
            "level": record.levelname.lower(),
            "library": record.name,
            "place": f"{record.filename}:{record.lineno} {record.funcName}",
        }
        if record.exc_info:
            event["exc_info"] = record.exc_info[1]
        self._tell(describe_exception(None, "", event))


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
