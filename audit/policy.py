"""Trust policies: which witnesses must have cosigned before a checkpoint counts.

SOURCE: C2SP tlog-policy. A file names logs, witnesses, groups of them, and one quorum;
so an operator, an auditor and a mirror can hold a log to the very same rule.
"""

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from audit.note import COSIGNATURE, ED25519, Verifier, parse_vkey
from schemas.errors import SettingsError, VerificationError

POLICY_LIMIT = 262_144
"""Largest policy file, in bytes."""

_NONE = "none"
_DECIMAL = re.compile(r"[1-9][0-9]{0,3}")
_OTHER_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Log:
    """A log that the policy knows."""

    verifier: Verifier
    url: str | None


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness that the policy knows."""

    name: str
    """Its name within the policy; the key has a name of its own."""
    verifier: Verifier
    url: str | None
    """Where it takes checkpoints, and shows the last one; without slash at the end."""


@dataclass(frozen=True, slots=True)
class Group:
    """Some of these suffice."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """Logs, witnesses, and how many of whom make a quorum."""

    logs: tuple[Log, ...]
    witnesses: Mapping[str, Witness]
    groups: Mapping[str, Group]
    quorum: str | None
    """A witness or a group; None when no cosignature is demanded."""

    def is_met(self, cosigned: AbstractSet[str]) -> bool:
        """Return whether these witnesses, by their names, make a quorum."""
        return self.quorum is None or self._has(self.quorum, cosigned)

    def _has(self, name: str, cosigned: AbstractSet[str]) -> bool:
        """Return whether a witness or a group has cosigned."""
        group = self.groups.get(name)
        if group is None:
            return name in cosigned
        count = sum(self._has(member, cosigned) for member in group.members)
        return count >= group.threshold


def parse_policy(text: str) -> Policy:
    """Return the policy that a file holds.

    Raises:
        SettingsError: A line is wrong; names it.
    """
    reading = _Reading()
    if len(text) > POLICY_LIMIT or _OTHER_CONTROL.search(text):
        raise SettingsError("the policy is too large, or holds a control character")
    for number, line in enumerate(text.split("\n"), 1):
        words = line.replace("\t", " ").split(" ")
        words = [word for word in words if word]
        if not words or words[0].startswith("#"):
            continue
        try:
            reading.line(words)
        except (SettingsError, VerificationError) as error:
            raise SettingsError(f"line {number} of the policy: {error}") from None
    if len(reading.quorums) != 1:
        raise SettingsError("a policy has exactly one `quorum` line")
    [quorum] = reading.quorums
    return Policy(tuple(reading.logs), reading.witnesses, reading.groups, quorum)


class _Reading:
    """A policy while it is read."""

    def __init__(self) -> None:
        self.logs: list[Log] = []
        self.witnesses: dict[str, Witness] = {}
        self.groups: dict[str, Group] = {}
        self.quorums: list[str | None] = []
        self._members: set[str] = set()

    def line(self, words: list[str]) -> None:
        """Read one line."""
        match words:
            case ["log", vkey, *url] if len(url) <= 1:
                self._log(vkey, *url)
            case ["witness", name, vkey, *url] if len(url) <= 1:
                self._witness(name, vkey, *url)
            case ["group", name, threshold, _, *_]:
                self._group(name, threshold, tuple(words[3:]))
            case ["quorum", name]:
                self.quorums.append(None if name == _NONE else self._known(name))
            case _:
                raise SettingsError("it is no `log`, `witness`, `group` or `quorum`")

    def _log(self, vkey: str, url: str | None = None) -> None:
        verifier = parse_vkey(vkey)
        if verifier.type != ED25519:
            raise SettingsError("a log's key is of type 1")
        if any(log.verifier.key == verifier.key for log in self.logs):
            raise SettingsError("this log's key was named before")
        self.logs.append(Log(verifier, url and url.rstrip("/")))

    def _witness(self, name: str, vkey: str, url: str | None = None) -> None:
        self._check_new(name)
        verifier = parse_vkey(vkey)
        if verifier.type != COSIGNATURE:
            raise SettingsError("a witness's key is of type 4")
        others = self.witnesses.values()
        if any(other.verifier.key == verifier.key for other in others):
            # One signature must not count for two.
            raise SettingsError("this witness's key was named before")
        self.witnesses[name] = Witness(name, verifier, url and url.rstrip("/"))

    def _group(self, name: str, threshold: str, members: tuple[str, ...]) -> None:
        self._check_new(name)
        for member in members:
            if self._known(member) in self._members:
                raise SettingsError(f"`{member}` is a member twice")
            self._members.add(member)
        count = {"any": "1", "all": str(len(members))}.get(threshold, threshold)
        if not _DECIMAL.fullmatch(count) or int(count) > len(members):
            raise SettingsError("a group's threshold is `all`, `any` or 1 to its size")
        self.groups[name] = Group(int(count), members)

    def _known(self, name: str) -> str:
        if name not in self.witnesses and name not in self.groups:
            raise SettingsError(f"`{name}` is not defined above")
        return name

    def _check_new(self, name: str) -> None:
        if name == _NONE or name in self.witnesses or name in self.groups:
            raise SettingsError(f"the name `{name}` is taken")
