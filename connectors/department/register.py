"""The department's register: one database, and the evidence types that it holds."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from connectors.department.config import EvidenceSource
from connectors.department.database import BadValueError, explain, open_register
from connectors.department.sources import NOT_IN_ORDER, Finding, NeedsPerson, Source
from connectors.protocol import LookupClaims
from schemas.errors import SettingsError


class Register:
    """The department's database, open for reading."""

    def __init__(self, url: str, specs: Mapping[str, EvidenceSource]) -> None:
        """Connect, and read the tables that the evidence types come from.

        Raises:
            SettingsError: The database can't be reached or lacks a table or column.
        """
        self._engine = open_register(url)
        try:
            self._sources = {
                ref: Source(spec, self._engine) for ref, spec in specs.items()
            }
        except SQLAlchemyError as error:
            self.close()
            message = f"the register can't be read: {explain(url, error)}"
            raise SettingsError(message) from error
        except SettingsError:
            self.close()
            raise

    def source(self, evidence_type: str) -> Source | None:
        """Return the source of an evidence type `id@version`; None if not offered."""
        return self._sources.get(evidence_type)

    def find(self, source: Source, lookup: LookupClaims, now: datetime) -> Finding:
        """Look one record up; blocks.

        Raises:
            SQLAlchemyError: The database can't be read.
        """
        with self._engine.connect() as connection:
            try:
                return source.find(connection, lookup, now)
            except BadValueError as bad:
                return NeedsPerson(NOT_IN_ORDER, bad.column)

    def ping(self) -> None:
        """Read from every table that evidence comes from; blocks.

        Raises:
            SQLAlchemyError: One can't be read.
        """
        with self._engine.connect() as connection:
            for source in self._sources.values():
                source.probe(connection)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()
