"""Every error that Errand raises on purpose, in one tree.

* ErrandError
  + RequestError                  the caller must change something and ask again
    - InvalidRequestError           a part of the request is wrong; names its path
    - NotFoundError                 there is no such thing, or not for this caller
    - StateConflictError            the thing is in a state that forbids this
    - ForbiddenError                the caller may not do this
      . ScopeMissingError             its token does not carry the scope that this takes
      . PurposeNotAllowedError        it may not ask for this purpose
      . MandateError                  the mandate does not let the agent do this
    - UnauthenticatedError          the caller is not known, or its token has expired
    - TooLargeError                 the request exceeds a limit
    - KeyReusedError                an idempotency key came again with another request
  + VerificationError             a signature, digest, schema or proof does not hold
    - RolledBackError               a log lacks what it has signed before
  + UnverifiableError             what is to be verified is not to be had: no verdict
    - TokenWantedError              it is shown to whoever has an access token for it
  + ConnectorError                a department could not be asked, or answered wrongly
    - ConnectorUnavailableError     asking again later may help
    - ConnectorFaultError           it answered, and wrongly; names the fault
  + LogUnavailableError           the log can't be written: nothing may be released
  + StoreUnavailableError         the tables can't be read or written now
    - StoreMovedError               what was read was replaced meanwhile; read it again
  + PackError                     a data pack is wrong; names file, line and path
  + SettingsError                 the configuration is wrong; says what to change

Errors know no HTTP; `exchange.api.problems` maps them to RFC 9457 once. No message
holds a person's value: it names the path and the rule instead.
"""

from dataclasses import dataclass
from enum import StrEnum


class ErrandError(Exception):
    """The root of the tree."""


class RequestError(ErrandError):
    """The caller must change something and ask again."""


class Where(StrEnum):
    """What part of a request a complaint is about."""

    BODY = "pointer"
    HEADER = "header"
    PARAMETER = "parameter"
    """Of the path or the query."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing that is wrong with a request or a pack."""

    path: str
    """Where, as a JSON Pointer (RFC 6901); "" is the whole document. Of a header or a
    parameter its name."""
    message: str
    """What is wrong and what would be right, without the value that was given."""
    where: Where = Where.BODY


class InvalidRequestError(RequestError):
    """Parts of the request are wrong.

    Attributes:
        complaints: Each part that is wrong, at least one.
    """

    def __init__(self, *complaints: Complaint) -> None:
        super().__init__("; ".join(f"{c.path}: {c.message}" for c in complaints))
        self.complaints = complaints


class NotFoundError(RequestError):
    """There is no such thing, or not for this caller."""


class StateConflictError(RequestError):
    """The thing is in a state that forbids this."""


class ForbiddenError(RequestError):
    """The caller may not do this."""


class ScopeMissingError(ForbiddenError):
    """The caller's token does not carry the scope that this takes."""


class PurposeNotAllowedError(ForbiddenError):
    """The caller may not ask for this purpose."""


class MandateError(ForbiddenError):
    """The mandate does not let the agent do this."""


class UnauthenticatedError(RequestError):
    """The caller is not known, or its token has expired."""


class TooLargeError(RequestError):
    """The request exceeds a limit."""


class KeyReusedError(RequestError):
    """An idempotency key came again with another request."""


class VerificationError(ErrandError):
    """A signature, digest, schema or proof does not hold."""


class RolledBackError(VerificationError):
    """A log does not contain what it has signed before, as somebody else can show."""


class UnverifiableError(ErrandError):
    """What is to be verified is not to be had: whether it holds is not told."""


class TokenWantedError(UnverifiableError):
    """It is shown to whoever has an access token for it, and no such one was sent."""


class ConnectorError(ErrandError):
    """A department could not be asked, or answered wrongly."""


class Layer(StrEnum):
    """Where a fault lies: the layer that somebody has to look at."""

    GATEWAY = "gateway"
    CONNECTOR = "connector"
    SOURCE = "source"


class ConnectorUnavailableError(ConnectorError):
    """Asking again later may help.

    Attributes:
        layer: Where the fault lies.
        retry_after_s: Seconds the source asked us to wait, or None.
    """

    def __init__(
        self, message: str, *, layer: Layer, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.layer = layer
        self.retry_after_s = retry_after_s


class Fault(StrEnum):
    """How an answer was wrong: a closed list, for records, metrics and outcomes."""

    SIGNATURE = "signature"
    SCHEMA = "schema"
    SUBJECT = "subject"
    STALE = "stale"
    LOOKUP = "lookup"
    """It answers another look-up, requester, evidence type or version."""
    UNASKED_FIELD = "unasked_field"
    MISSING_FIELD = "missing_field"
    TOO_LARGE = "too_large"
    FORMAT = "format"
    """Not the protocol: half an SD-JWT or none, not a problem of the closed list."""


class ConnectorFaultError(ConnectorError):
    """The department answered, and wrongly.

    Attributes:
        fault: How.
    """

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class LogUnavailableError(ErrandError):
    """The log can't be written: nothing may be released."""


class StoreUnavailableError(ErrandError):
    """The tables can't be read or written now; asking again later may help."""


class StoreMovedError(StoreUnavailableError):
    """What was read was replaced meanwhile by somebody else; read it again."""


class PackError(ErrandError):
    """A data pack is wrong.

    Attributes:
        places: Each place that is wrong, as `file:line: path: message`.
    """

    def __init__(self, *places: str) -> None:
        super().__init__("\n".join(places))
        self.places = places


class SettingsError(ErrandError):
    """The configuration is wrong."""
