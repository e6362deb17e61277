"""What an operator may choose: one YAML file, and `ERRAND_*` variables over it.

Settings are a value that is read once and handed to `build_app`; nothing reads them
at import. A secret never stands in the settings themselves: keys are files in the
data folder's `keys/` (see `exchange.keys`). `docs/settings.md` lists every key.
"""

import difflib
import re
from collections.abc import Mapping
from importlib.resources import files
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import ErrorDetails

from audit.index_tables import index_schema
from audit.ledger import ERASURES_FILE, ERASURES_SCHEMA
from audit.places import libpq_url
from audit.register import REGISTER_FILE, REGISTER_SCHEMA
from audit.sql import Place, Postgres
from audit.store import log_schema
from audit.subjects import SUBJECTS_SCHEMA
from audit.table_objects import PUBLIC_SCHEMA
from schemas.errors import SettingsError
from schemas.model import Model, Port
from schemas.packtext import read_settings_yaml

ENVIRONMENT_PREFIX = "ERRAND_"
CONFIG_VARIABLE = "ERRAND_CONFIG"
"""The variable that names the settings file itself."""

LOCK_FILE = "serve.lock"
"""What a gateway holds in its data folder while it runs."""
_MOST_CHARACTERS = 1_048_576
"""A settings file larger than this is no settings file."""


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    base: Path = (info.context or {}).get("base", Path())
    return (base / path.expanduser()).absolute()


LocalPath: TypeAlias = Annotated[Path, AfterValidator(_beside_the_file)]
"""A path; a relative one starts at the settings file's folder, or where we stand."""

_YEAR_S = 366 * 86_400
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=_YEAR_S)]

_LONGEST_WAIT_S = 7 * 86_400
_ON_POSTGRES = ("postgresql:", "postgresql+")
"""How the URL of tables begins that stand at a server."""


def _growing(waits: tuple[float, ...]) -> tuple[float, ...]:
    if list(waits) != sorted(waits) or waits[-1] > _LONGEST_WAIT_S:
        raise ValueError("no wait may be shorter than the one before, or over a week")
    return waits


_SQLITE = re.compile(r"sqlite(\+pysqlite)?:///(?!:memory:)[^?]+(\?timeout=[0-9]{1,4})?")


def _database_url(url: str) -> str:
    """Refuse what the gateway can't keep tables in; nothing of it is repeated."""
    if url.startswith("sqlite"):
        if not _SQLITE.fullmatch(url):
            raise ValueError("write `sqlite:///FILE`: cases must outlive the process")
    elif url.startswith(_ON_POSTGRES):
        libpq_url(url)
    else:
        raise ValueError("write `sqlite:///FILE` or `postgresql://...`")
    return url


DatabaseUrl: TypeAlias = Annotated[str, AfterValidator(_database_url)]
"""The URL of tables of the gateway, as SQLAlchemy takes it."""
PostgresUrl: TypeAlias = Annotated[str, AfterValidator(libpq_url)]
"""The URL of a PostgreSQL database, as libpq takes it."""


def _shipped_pack() -> Path:
    return Path(str(files("schemas"))) / "packs" / "990100"


class Settings(Model):
    """Everything an operator may choose, with the choices a single machine wants."""

    data_dir: Annotated[LocalPath, Field(validate_default=True)] = Path("data")
    """The folder that holds everything the gateway keeps; one `serve` at a time."""
    packs: Annotated[tuple[LocalPath, ...], Field(min_length=1)] = (_shipped_pack(),)
    """Folders with matters, evidence types, providers, services, grants and
    requesters, read in this order; a later one may add keys and endpoints."""
    listen_host: str = "127.0.0.1"
    """The address that the API listens on."""
    listen_port: Port = 8800
    """The port that the API listens on."""
    public_url: Annotated[
        str, StringConstraints(pattern=r"^https?://[^\s/?#]+(/[^\s?#]*[^\s/?#])?$")
    ] = "http://127.0.0.1:8800"
    """Where others reach the API, without a slash at the end: the audience of client
    assertions and the start of links."""
    gateway_id: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")] = (
        "gateway_990100"
    )
    """Who asks departments: the issuer of every look-up, as they have pinned it."""
    log_origin: Annotated[
        str, StringConstraints(pattern=r"^[^\s+]{1,128}$", strip_whitespace=False)
    ] = "errand.example/990100/log"
    """The access log's name (C2SP checkpoint origin). Never change it: the log's
    records carry it."""
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks in which departments may be; nothing else is ever connected to."""
    root_certificates: LocalPath | None = None
    """Further roots (PEM) that the certificates of departments may rest on, such as the
    government's own authority; without it those that the system trusts."""
    database_url: DatabaseUrl | None = None
    """The database of cases, consents and waiting work: `sqlite:///FILE`, or
    `postgresql://...` where several gateways share it; without it `errand.db` in the
    data folder."""
    vault_url: DatabaseUrl | None = None
    """The database of the keys of cases, better apart from the cases; without it
    `vault.db` in the data folder, or on PostgreSQL the schema `errand_vault` of the
    cases' database."""
    log_url: PostgresUrl | None = None
    """The PostgreSQL database of the access log and its search index
    (`postgresql://...`); without it the one of `database_url` where that is
    PostgreSQL, or else files in the data folder."""
    subjects_url: PostgresUrl | None = None
    """The PostgreSQL database of the access log's subject directory; without it the
    log's own, where it has a schema of its own."""
    erasures_url: PostgresUrl | None = None
    """The PostgreSQL database of the shred ledger: who was erased from the log, and
    what is held; without it the log's own, or `erasures.db` in the data folder. Back it
    up apart from the subject directory, and never restore an older copy."""
    keys_folder: LocalPath | None = None
    """The folder of the gateway's own keys; without it `keys` in the data folder. The
    gateways of a fleet share one."""
    body_limit: Annotated[int, Field(ge=1_024, le=16_777_216)] = 262_144
    """The largest request body, in bytes."""
    wait_default_s: Annotated[float, Field(ge=0, le=30)] = 2.0
    """How long an answer waits for departments when the request doesn't say, in
    seconds."""
    wait_most_s: Annotated[float, Field(ge=0, le=300)] = 30.0
    """The longest that a request may ask to wait (`Prefer: wait`), in seconds."""
    retry_s: Annotated[
        tuple[Seconds, ...], Field(min_length=1), AfterValidator(_growing)
    ] = (
        5.0,
        15.0,
        60.0,
        300.0,
        900.0,
        3600.0,
    )
    """How long after each failed try the next one follows, in seconds, each at least
    as long as the one before; the last one repeats up to the matter's limit."""
    token_lifetime_s: Annotated[int, Field(ge=30, le=3_600)] = 300
    """How long an access token holds, in seconds."""
    consent_lifetime_s: Annotated[int, Field(ge=60, le=_YEAR_S)] = 30 * 86_400
    """How long a consent that was asked for waits for its answer, in seconds."""
    idempotency_lifetime_s: Annotated[int, Field(ge=3_600, le=_YEAR_S)] = 7 * 86_400
    """How long a repeated `Idempotency-Key` is recognised, in seconds."""
    most_in_flight: Annotated[int, Field(ge=1, le=100_000)] = 1_024
    """How many requests are worked on at once; more are answered 503."""
    checkpoint_every_s: Seconds = 1.0
    """How often the log's signed tree head is renewed while records come, in
    seconds."""
    witness_policy: LocalPath | None = None
    """A tlog-policy file: the witnesses that cosign the log's heads, and how many of
    whom must before a head is published; without it the log alone signs."""
    log_bundles: Literal["auditors", "everybody"] = "auditors"
    """Who may fetch the log's entries: `auditors`, or `everybody`. They name
    organisations, kinds of evidence and times, and no person."""
    tiles_url: Annotated[
        str | None, StringConstraints(pattern=r"^(file:///|s3://[^/])[^?#]*$")
    ] = None
    """A store that the published log is copied to, for a web server or a mirror:
    `file:///folder` or `s3://bucket/prefix`; credentials in `AWS_...` variables."""
    tiles_endpoint: Annotated[
        str | None, StringConstraints(pattern=r"^https?://[^\s/?#]+$")
    ] = None
    """The server of S3-compatible storage that is not Amazon's."""
    anchor_url: Annotated[
        str | None, StringConstraints(pattern=r"^https?://[^\s/?#]+[^\s#]*$")
    ] = None
    """A time-stamping authority (RFC 3161) that stamps published checkpoints."""
    anchor_certificates: LocalPath | None = None
    """The authority's certificates (PEM), its root among them; with `anchor_url`."""
    anchor_every_s: Annotated[float, Field(ge=60, le=_YEAR_S)] = 3_600.0
    """How often a checkpoint is stamped, in seconds."""
    anchor_stop_s: Annotated[float, Field(ge=900, le=_YEAR_S)] = 14_400.0
    """How long the authority may fail until nothing more is recorded, in seconds."""
    executor_id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,64}$")] = (
        "gateway-1"
    )
    """This gateway's own stable name among those that share a database."""
    lease_margin_s: Seconds = 30.0
    """How much longer a case is held for the gateway that works on it than the work
    may take: a gateway that was killed holds up its cases for so long, in seconds."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much is written to standard error."""
    log_format: Literal["json", "console"] = "json"
    """`json` for machines, `console` for people."""

    def tables_url(self) -> str:
        """Return the URL of the gateway's tables."""
        return self.database_url or f"sqlite:///{self.data_dir / 'errand.db'}"

    def vault_tables_url(self) -> str:
        """Return the URL of the keys of cases."""
        if self.vault_url is not None:
            return self.vault_url
        if self.database_url is not None and self.in_fleet:
            return _with_schema(self.database_url, "errand_vault")
        return f"sqlite:///{self.data_dir / 'vault.db'}"

    def work_url(self) -> str:
        """Return the URL of the durable engine's own tables.

        On PostgreSQL they stand in the cases' database, in the schema `dbos`.
        """
        if self.database_url is not None and self.in_fleet:
            return self.database_url
        return f"sqlite:///{self.data_dir / 'work.db'}"

    @property
    def in_fleet(self) -> bool:
        """Whether other gateways may share the tables: they are on PostgreSQL."""
        return (self.database_url or "").startswith(_ON_POSTGRES)

    @property
    def keys_dir(self) -> Path:
        """The folder of the gateway's own keys."""
        return self.keys_folder or self.data_dir / "keys"

    @property
    def log_file(self) -> Path:
        """The access log, where it is kept in a file."""
        return self.data_dir / "log.db"

    @property
    def shards_file(self) -> Path:
        """The register of shards of a log in files; none while there is one alone."""
        return self.data_dir / REGISTER_FILE

    def shards_place(self) -> Place:
        """Return where the register of the log's shards is kept."""
        return self._log_part(REGISTER_SCHEMA) or self.shards_file

    def log_place(self, shard: str = "") -> Place:
        """Return where a shard of the access log is kept; by itself the first one."""
        place = self._log_part(log_schema(shard))
        return place or self._shard_folder(shard) / self.log_file.name

    def index_place(self, shard: str = "") -> Place:
        """Return where a shard's search index is kept, which can be made anew."""
        place = self._log_part(index_schema(shard))
        return place or self._shard_folder(shard) / "log-index.db"

    def _shard_folder(self, shard: str) -> Path:
        return self.data_dir / "shards" / shard if shard else self.data_dir

    def tiles_address(self, shard: str = "") -> str:
        """Return the store that a shard's pieces are copied to."""
        base = (self.tiles_url or "").rstrip("/")
        return f"{base}/{shard}" if shard else base

    def public_place(self) -> Place:
        """Return where the anchors of all shards are kept, unless a store has them."""
        return self._log_part(PUBLIC_SCHEMA) or self.data_dir / "public"

    def subjects_place(self) -> Place:
        """Return where the log's subject directory is kept."""
        if self.subjects_url is not None:
            return Postgres(self.subjects_url, SUBJECTS_SCHEMA, "subjects_url")
        return self._log_part(SUBJECTS_SCHEMA) or self.data_dir / "subjects.db"

    def erasures_place(self) -> Place:
        """Return where the shred ledger is kept."""
        if self.erasures_url is not None:
            return Postgres(self.erasures_url, ERASURES_SCHEMA, "erasures_url")
        return self._log_part(ERASURES_SCHEMA) or self.data_dir / ERASURES_FILE

    def _log_part(self, schema: str) -> Postgres | None:
        """Return a schema in the log's database; None where it is kept in files."""
        if self.log_url is not None:
            return Postgres(self.log_url, schema, "log_url")
        if self.database_url is None or not self.in_fleet:
            return None
        return Postgres(libpq_url(self.database_url), schema, "database_url")

    @property
    def lock_file(self) -> Path:
        """Held while a gateway runs on this data folder."""
        return self.data_dir / LOCK_FILE


def _with_schema(url: str, schema: str) -> str:
    """Return a PostgreSQL URL whose tables stand in a schema of their own."""
    joint = "&" if "?" in url else "?"
    return f"{url}{joint}options=-c%20search_path%3D{schema}"


def read_settings(file: Path | None, environment: Mapping[str, str]) -> Settings:
    """Return the settings of a file, and of the environment over it.

    Args:
        file: The settings file; None reads the one that `ERRAND_CONFIG` names, or
            none.
        environment: The variables, such as `os.environ`.

    Raises:
        SettingsError: A key is unknown, or its value wrong; says which and what to do.
    """
    named = environment.get(CONFIG_VARIABLE)
    file = file or (Path(named) if named else None)
    if file is None:
        return parse_settings("", environment, Path.cwd())
    try:
        with file.open(encoding="utf-8") as stream:
            text = stream.read(_MOST_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"settings file `{file}` can't be read: give another with `--config`"
        ) from error
    if len(text) > _MOST_CHARACTERS:
        raise SettingsError(
            f"settings file `{file}` is longer than {_MOST_CHARACTERS} characters"
        )
    return parse_settings(text, environment, file.absolute().parent, str(file))


def parse_settings(
    text: str, environment: Mapping[str, str], base: Path, file: str = "settings"
) -> Settings:
    """Return the settings of a YAML text, and of the environment over it.

    Args:
        text: A YAML mapping; empty means all defaults.
        environment: Variables; those that start with `ERRAND_` name a key in capitals.
            A list is written with commas.
        base: Where relative paths start.
        file: What the text is called where it is no YAML.

    Raises:
        SettingsError: As for `read_settings`.
    """
    values = _from_yaml(text, file) | _from_environment(environment)
    for key in values:
        _check_known(key)
    try:
        settings = Settings.model_validate(values, context={"base": base})
    except ValidationError as error:
        problems = _plain(error.errors(include_url=False, include_input=False))
        described = dict.fromkeys(_describe(p) for p in problems)
        raise SettingsError("; ".join(described)) from None
    if (settings.anchor_url is None) != (settings.anchor_certificates is None):
        raise SettingsError("`anchor_url` and `anchor_certificates` go together")
    if settings.wait_default_s > settings.wait_most_s:
        raise SettingsError("`wait_default_s` is longer than `wait_most_s`: lower it")
    return settings


def _plain(problems: list[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out what only follows: a list of wrong items is found too short as well."""
    items = {problem["loc"][0] for problem in problems if len(problem["loc"]) > 1}
    return [
        problem
        for problem in problems
        if len(problem["loc"]) > 1 or problem["loc"][0] not in items
    ]


def _from_yaml(text: str, file: str) -> dict[str, object]:
    values = read_settings_yaml(file, text)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError("the settings must be a mapping of keys to values")
    return dict(values)


def _from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    """Return the keys that variables set; a list is written with commas."""
    values: dict[str, object] = {}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == CONFIG_VARIABLE:
            continue
        key = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        is_list = key in {"packs", "networks", "retry_s"}
        parts = [part.strip() for part in text.split(",") if part.strip()]
        values[key] = parts if is_list else text
    return values


def _check_known(key: str) -> None:
    if key in Settings.model_fields:
        return
    near = difflib.get_close_matches(key, Settings.model_fields, n=1)
    advice = f"do you mean `{near[0]}`?" if near else "see docs/settings.md"
    raise SettingsError(f"there is no setting `{key}`: {advice}")


def _describe(problem: ErrorDetails) -> str:
    """Say which key is wrong and what would be right, without its value."""
    place = [str(part) for part in problem["loc"][:1]]
    place += [str(part) for part in problem["loc"][1:] if isinstance(part, int)]
    message = problem["msg"].removeprefix("Value error, ").partition(", unable to ")[0]
    return f"setting `{'.'.join(place)}`: {message[0].lower()}{message[1:]}"
