"""What libraries log is told without what they quote."""

import logging
import sys

from exchange.libraries import EventDict, LibraryHandler

PLANTED = "990101199403120026"


def test_an_error_of_a_library_is_told_by_its_kind_and_its_places() -> None:
    """Its words, and those of the exception, may hold a person's value (rule 8)."""
    told: list[EventDict] = []
    try:
        int(f"no {PLANTED}")
    except ValueError:
        record = logging.LogRecord(
            *("uvicorn.error", logging.ERROR, __file__, 7, f"failed: {PLANTED}", ()),
            exc_info=sys.exc_info(),
            func="asked",
        )
        LibraryHandler(told.append).emit(record)

    [event] = told
    assert ("library", "error") == (event["event"], event["level"])
    assert ("uvicorn.error", "ValueError") == (event["library"], event["error"])
    assert "test_libraries.py:7 asked" == event["place"]
    assert "test_libraries.py" in event["places"][-1]
    assert PLANTED not in str(event)


def warned(handler: LibraryHandler, at: float, line: int = 7) -> None:
    """Let a library warn at an instant."""
    record = logging.LogRecord(
        *("uvicorn.error", logging.WARNING, __file__, line, "Invalid HTTP request", ()),
        exc_info=None,
    )
    record.created = at
    handler.emit(record)


def test_a_library_that_goes_on_warning_is_told_once_a_minute() -> None:
    """A stranger who sends what is no HTTP does not fill a disk; others are heard."""
    told: list[EventDict] = []
    handler = LibraryHandler(told.append)
    for second in range(61):
        warned(handler, 1_000.5 + second)
    warned(handler, 1_001.0, line=8)
    warned(handler, 900.0)

    assert [
        ("1970-01-01T00:16:40.500000Z", None),
        ("1970-01-01T00:17:40.500000Z", 59),
        ("1970-01-01T00:16:41.000000Z", None),
        ("1970-01-01T00:15:00.000000Z", None),
    ] == [(event["timestamp"], event.get("untold")) for event in told]
