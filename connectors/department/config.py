"""The configuration of a department's service: one YAML file, checked whole.

The published JSON Schema `schemas/json/department-config.schema.json` is made from
these types, and a test holds the two equal.
"""

from collections.abc import Iterator, Mapping
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import (
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)

from connectors.jose import pin_complaint
from schemas.directory import PublicKey
from schemas.errors import SettingsError
from schemas.evidence import FieldName
from schemas.model import Model, Port, RegionCode, Slug, VersionedId
from schemas.packtext import read_settings_yaml

ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
"""A column, as the database has it."""
Scalar: TypeAlias = str | int | bool


class Listen(Model):
    """Where the service listens."""

    host: str = "127.0.0.1"
    port: Port = 8100
    certificate: Path | None = None
    """PEM of the TLS certificate; None where a proxy in front does TLS."""
    certificate_key: Path | None = None
    """PEM of its key; given exactly when `certificate` is."""

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.certificate is None) != (self.certificate_key is None):
            raise ValueError("`certificate` and `certificate_key` go together")
        return self


class Gateway(Model):
    """A gateway whose look-ups are answered."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    """`iss` of its look-ups."""
    keys: Annotated[tuple[PublicKey, ...], Field(min_length=1)]


class ValueType(StrEnum):
    """What a column's value becomes in JSON."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    JSON = "json"
    """The column holds a JSON document, and the document is the value."""


class ColumnField(Model):
    """A field that is one column."""

    column: ColumnName
    type: ValueType | None = None
    """None for what the column's own type says: dates as `YYYY-MM-DD`, exact
    decimals as text, the rest as it is."""
    json_schema: Mapping[str, JsonValue] | None = None
    """JSON Schema (2020-12) of the value; a record that breaks it is not sent."""
    true_is: tuple[str, ...] = ()
    """With type `boolean`: what the column holds for true, as text, such as `Y`;
    then nothing else is, and what is neither true nor false is not sent."""
    false_is: tuple[str, ...] = ()
    """What the column holds for false; given exactly when `true_is` is."""

    @model_validator(mode="after")
    def _words(self) -> Self:
        if bool(self.true_is) != bool(self.false_is):
            raise ValueError("`true_is` and `false_is` go together")
        if self.true_is and self.type is not ValueType.BOOLEAN:
            raise ValueError("`true_is` needs the type `boolean`")
        if set(self.true_is) & set(self.false_is):
            raise ValueError("a word in `true_is` and `false_is` says nothing")
        return self


class RowsField(Model):
    """A field that is a list of rows of another table."""

    rows: ColumnName
    """The other table or view."""
    joined_by: Annotated[Mapping[ColumnName, ColumnName], Field(min_length=1)]
    """Its column → the record's column that it must equal."""
    columns: Annotated[
        Mapping[FieldName, ColumnField | ColumnName], Field(min_length=1)
    ]
    """The members of each item."""
    order_by: ColumnName | None = None
    json_schema: Mapping[str, JsonValue] | None = None


class AsOfColumn(Model):
    """When the register held a record, by a column."""

    column: ColumnName
    utc_offset: Annotated[
        str, StringConstraints(pattern=r"^[+-][0-9]{2}:[0-9]{2}$")
    ] = "+00:00"
    """The offset of times that name none, such as `+08:00`."""


class Coverage(Model):
    """What the register can speak about; outside it the answer is `not-covered`."""

    regions: tuple[RegionCode, ...] = ()
    """Regions whose records may be given, with all that lies inside them; empty for
    all."""
    region_column: ColumnName | None = None
    """The record's region; needed with `regions`."""
    from_date: date | None = None
    """The first day whose records it holds."""
    date_key: FieldName | None = None
    """The key that is compared with `from_date`; needed with it."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.regions and self.region_column is None:
            raise ValueError("`regions` needs `region_column`")
        if self.from_date is not None and self.date_key is None:
            raise ValueError("`from_date` needs `date_key`")
        return self


class EvidenceSource(Model):
    """Where one evidence type comes from."""

    table: ColumnName
    """A table or a view."""
    db_schema: str | None = None
    """The database schema that the table is in; None for the default."""
    keys: Annotated[
        tuple[Annotated[Mapping[FieldName, ColumnName], Field(min_length=1)], ...],
        Field(min_length=1),
    ]
    """Sets of keys, each key → its column; any one set finds the record."""
    fields: Mapping[FieldName, ColumnField | RowsField | ColumnName] = {}
    """What may be asked for; empty where only comparison is offered."""
    compare: Mapping[FieldName, ColumnName] = {}
    """What may be compared in verify mode; empty where it is not offered."""
    as_of: Literal["now"] | AsOfColumn = "now"
    """`now` for a live register."""
    where: Mapping[ColumnName, Scalar] = {}
    """Only rows with these values count."""
    newest_by: ColumnName | None = None
    """Of several rows the one with the greatest value here counts, and a row without
    a value only where none has one. Several rows that are left, or where this is
    None, are `ambiguous`: a person must look."""
    coverage: Coverage = Coverage()

    @model_validator(mode="after")
    def _offers_something(self) -> Self:
        if not self.fields and not self.compare:
            raise ValueError("there must be `fields` or `compare`")
        return self


class Limits(Model):
    """How much is done at once."""

    threads: Annotated[int, Field(ge=1, le=64)] = 4
    """How many look-ups read the register at once."""
    waiting: Annotated[int, Field(ge=0, le=10_000)] = 64
    """How many more may wait; further ones are `overloaded`."""


class DepartmentConfig(Model):
    """One department: what it holds, for whom, and with which key."""

    provider: Slug
    """`aud` of the look-ups it takes and `iss` of the evidence it gives."""
    listen: Listen = Listen()
    database: Annotated[str, StringConstraints(min_length=1)]
    """SQLAlchemy URL of the register; an account that may only read is best."""
    key: Path
    """PEM of the department's Ed25519 key."""
    log: Path
    """SQLite file of the log of what was asked and answered."""
    gateways: Annotated[tuple[Gateway, ...], Field(min_length=1)]
    evidence_types: Annotated[Mapping[VersionedId, EvidenceSource], Field(min_length=1)]
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _each_key_is_one_gateways(self) -> Self:
        whose: dict[object, str] = {}
        for gateway in self.gateways:
            for key in gateway.keys:
                if gateway.id != whose.setdefault(key.jwk.get("kid"), gateway.id):
                    raise ValueError("`gateways`: two of them pin a key by one `kid`")
        return self


def config_schema() -> dict[str, JsonValue]:
    """Return the published JSON Schema (2020-12) of a configuration."""
    schema: dict[str, JsonValue] = DepartmentConfig.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def load_config(path: Path) -> DepartmentConfig:
    """Return the configuration in a YAML file; its paths are relative to the file.

    Raises:
        OSError: The file can't be read.
        SettingsError: It is wrong; names every place.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SettingsError(f"`{path}` is not YAML: it is not UTF-8") from None
    document = read_settings_yaml(str(path), text)
    config = parse_config(document, str(path))
    return _anchored(config, path.resolve().parent)


def parse_config(document: object, origin: str = "config") -> DepartmentConfig:
    """Return a configuration that is already parsed from YAML or JSON.

    Raises:
        SettingsError: It is wrong; names every place as `origin: /path: message`.
    """
    try:
        config = DepartmentConfig.model_validate(document)
    except ValidationError as error:
        places = error.errors(include_input=False, include_url=False)
        complaints = [
            f"{origin}: /{'/'.join(str(part) for part in p['loc'])}: {p['msg']}"
            for p in places
        ]
        raise SettingsError("\n".join(complaints)) from None
    wrong = [f"{origin}: {complaint}" for complaint in _pin_complaints(config)]
    if wrong:
        raise SettingsError("\n".join(wrong))
    return config


def _pin_complaints(config: DepartmentConfig) -> Iterator[str]:
    """Yield what is wrong with the gateways' keys, as `/path: message`."""
    for i, gateway in enumerate(config.gateways):
        for j, key in enumerate(gateway.keys):
            complaint = pin_complaint(key)
            if complaint is not None:
                place, message = complaint
                yield f"/gateways/{i}/keys/{j}/{place}: {message}"


def _anchored(config: DepartmentConfig, folder: Path) -> DepartmentConfig:
    """Return the configuration with every path made absolute."""
    listen = config.listen
    certificates = {
        name: folder / value
        for name in ("certificate", "certificate_key")
        if (value := getattr(listen, name)) is not None
    }
    return config.model_copy(
        update={
            "key": folder / config.key,
            "log": folder / config.log,
            "database": _anchored_url(config.database, folder),
            "listen": listen.model_copy(update=certificates),
        }
    )


def _anchored_url(url: str, folder: Path) -> str:
    """Make the file of a SQLite URL absolute; leave every other URL as it is."""
    scheme, separator, file = url.partition(":///")
    if not separator or not scheme.startswith("sqlite") or not file:
        return url
    if file.startswith((":memory:", "file:")):
        return url
    return f"{scheme}:///{folder / file}"
