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
