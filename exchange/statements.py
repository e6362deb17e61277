"""Statements that every case runs: compiled once for each engine, handed to the driver.

`Connection.execute` takes some 40 µs a statement to look up what it compiled before and
to wrap a result that nobody reads; the engine itself takes a tenth of that. What is not
run for every case has no use for this.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import ClauseElement, Connection, Table, bindparam, insert
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import DBAPIError

Value: TypeAlias = str | int | bytes | None
"""What a driver takes as it is."""
Values: TypeAlias = Mapping[str, Value]
"""What a statement is run with, by the names of its columns and parameters."""

_STYLES = {"sqlite": "named", "postgresql": "pyformat"}
"""How each driver wants parameters written, so that both take them by name."""
_MOST_ROWS = 32
"""Rows in one statement: an engine takes so many parameters and no more."""


class Statement:
    """One statement of SQLAlchemy's, run without its machinery.

    Args:
        core: Every value in it is a parameter.
        columns: Which columns an UPDATE sets; all of them where none is named.
    """

    def __init__(self, core: ClauseElement, *columns: str) -> None:
        self._core = core
        self._columns = columns
        self._texts: dict[str, str] = {}

    def run(self, connection: Connection, values: Values) -> DBAPICursor:
        """Run it in the transaction of `connection`, which is begun where none is.

        Returns:
            The driver's cursor: read it before the transaction ends.

        Raises:
            DBAPIError: As `connection.execute` does.
        """
        text = self._on(connection)
        cursor = connection.connection.cursor()
        try:
            cursor.execute(text, values)
        except Exception as error:
            raise _as_sqlalchemys(connection, text, error) from error
        return cursor

    def _on(self, connection: Connection) -> str:
        """Return the statement in the words of the engine; see to a transaction."""
        if not connection.in_transaction():
            connection.begin()
        engine = connection.dialect.name
        text = self._texts.get(engine)
        if text is None:
            dialect: Any = type(connection.dialect)
            words = dialect(paramstyle=_STYLES[engine])
            columns = self._columns or None
            text = str(self._core.compile(dialect=words, column_keys=columns))
            self._texts[engine] = text
        return text


class Rows:
    """An INSERT of several rows as one statement.

    The driver's own way runs a statement for each, and each time lets go of the
    interpreter, so that the event loop's thread and the writer's change places.

    Args:
        table: Every column of it is given.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._statements: dict[int, Statement] = {}

    def insert(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Insert rows in the transaction of `connection`.

        Raises:
            DBAPIError: As `connection.execute` does.
        """
        for at in range(0, len(rows), _MOST_ROWS):
            some = rows[at : at + _MOST_ROWS]
            values = {
                f"{name}_{number}": value
                for number, row in enumerate(some)
                for name, value in row.items()
            }
            self._of(len(some)).run(connection, values)

    def _of(self, count: int) -> Statement:
        statement = self._statements.get(count)
        if statement is None:
            names = self._table.columns.keys()
            rows: list[dict[str, Any]] = [
                {name: bindparam(f"{name}_{number}") for name in names}
                for number in range(count)
            ]
            statement = Statement(insert(self._table).values(rows))
            self._statements[count] = statement
        return statement


def _as_sqlalchemys(connection: Connection, text: str, error: Exception) -> Exception:
    """Return a driver's error as SQLAlchemy's, without any value."""
    dialect = connection.dialect
    base = dialect.loaded_dbapi.Error
    if not isinstance(error, base):
        return error
    driver: Any = connection.connection.dbapi_connection
    if dialect.is_disconnect(error, driver, None):
        # It does nothing any more but raise, so that the pool hears of the loss too.
        connection.exec_driver_sql(text)
    return DBAPIError.instance(
        text, None, error, base, hide_parameters=True, dialect=dialect
    )
