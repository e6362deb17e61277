"""The store against a plain model: any order of asking, giving, withdrawing, taking."""

from dataclasses import dataclass
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, delete

from consent.rows import CONSENT, GRANT_USE, SUSPENSION, USE
from consent.rules import Rule
from consent.store import ask, refuse, withdraw
from consent.store import get as get_consent
from consent.uses import finish_uses, lift, open_uses, resume, suspend, take_uses
from schemas.errors import StateConflictError
from schemas.ids import ConsentId, LookupId
from tests.consent.examples import (
    FATHER,
    NOW,
    a_request,
    a_scope,
    a_use,
    give,
)

MINUTE = timedelta(minutes=1)
LEASE_MINUTES = 3
SERVICE = "service:civil_marriage"


@dataclass
class Known:
    """What the model knows of one consent; times in minutes."""

    role: str
    state: str
    expires: int
    left: int | None

    def state_at(self, now: int) -> str:
        """Return the state as a person would name it."""
        alive = self.state in ("asked", "given")
        return "expired" if alive and now >= self.expires else self.state


class Lifecycle(RuleBasedStateMachine):
    """The store beside dictionaries; after each step both agree."""

    consents: Bundle[ConsentId] = Bundle("consents")
    lookups: Bundle[LookupId] = Bundle("lookups")

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine

    @initialize()
    def open(self) -> None:
        """Begin with an empty store."""
        with self.engine.begin() as connection:
            for table in (CONSENT, USE, GRANT_USE, SUSPENSION):
                connection.execute(delete(table))
        self.minute = 0
        self.made = 0
        self.known: dict[ConsentId, Known] = {}
        self.open_until: dict[LookupId, tuple[tuple[ConsentId, ...], int]] = {}
        self.is_suspended, self.is_ending = False, False

    def _fresh(self) -> str:
        self.made += 1
        return f"id-{self.made:04}"

    @property
    def now(self) -> int:
        """The minute it is."""
        return self.minute

    @rule(minutes=st.integers(1, 4))
    def wait(self, minutes: int) -> None:
        """Time passes."""
        self.minute += minutes

    @rule(
        target=consents,
        role=st.sampled_from(["father", "guardian"]),
        minutes=st.integers(1, 12),
        uses=st.none() | st.integers(1, 3),
    )
    def ask(self, role: str, minutes: int, uses: int | None) -> ConsentId:
        """Ask; an open request of the role takes it in."""
        expires = self.now + minutes
        request = a_request(
            a_scope(role=role), expires_at=NOW + expires * MINUTE, uses=uses
        )
        open_ids = [
            name
            for name, known in self.known.items()
            if known.role == role and known.state_at(self.now) == "asked"
        ]
        with self.engine.begin() as connection:
            at = NOW + self.now * MINUTE
            consent = ask(connection, request, at, self._fresh).consent
        if not open_ids:
            assert consent.id not in self.known
            self.known[consent.id] = Known(role, "asked", expires, uses)
            return consent.id
        assert [consent.id] == open_ids
        known = self.known[consent.id]
        known.expires = max(known.expires, expires)
        both = (known.left, uses)
        known.left = None if None in both else max(n for n in both if n is not None)
        return consent.id

    @rule(consent=consents, act=st.sampled_from(["give", "refuse", "withdraw"]))
    def answer(self, consent: ConsentId, act: str) -> None:
        """Answer; what the state forbids raises and changes nothing."""
        known = self.known[consent]
        before = known.state_at(self.now)
        needs = {"give": "asked", "refuse": "asked", "withdraw": "given"}[act]
        becomes = {"give": "given", "refuse": "refused", "withdraw": "withdrawn"}[act]
        is_repeat = act != "give" and known.state == becomes
        now = NOW + self.now * MINUTE
        try:
            with self.engine.begin() as connection:
                version = get_consent(connection, consent).version
                if act == "give":
                    give(connection, consent, FATHER, version, now)
                elif act == "refuse":
                    refuse(connection, consent, FATHER, now)
                else:
                    withdraw(connection, consent, FATHER, now)
        except StateConflictError:
            assert before != needs
            assert not is_repeat
            return
        assert before == needs or is_repeat
        known.state = becomes

    @rule()
    def stop(self) -> None:
        """Suspend the service, also where that was about to end."""
        now = NOW + self.now * MINUTE
        with self.engine.begin() as connection:
            number = suspend(connection, SERVICE, reason="r", by="o", now=now)
        assert (number is None) == (self.is_suspended and not self.is_ending)
        self.is_suspended, self.is_ending = True, False

    @precondition(lambda self: self.is_suspended)
    @rule()
    def resume(self) -> None:
        """Decide that the suspension ends: it holds until it is lifted."""
        with self.engine.begin() as connection:
            number = resume(connection, SERVICE, "act")
        assert (number is None) == self.is_ending
        self.is_ending = True

    @rule()
    def lift(self) -> None:
        """Lift the suspension, where that was decided."""
        with self.engine.begin() as connection:
            lifted = lift(connection, SERVICE, "act")
        assert lifted == self.is_ending
        self.is_suspended, self.is_ending = self.is_suspended and not lifted, False

    def _expected(self, wanted: tuple[ConsentId, ...]) -> Rule | None:
        if self.is_suspended:
            return Rule.SERVICE_SUSPENDED
        for consent in sorted(set(wanted)):
            known = self.known[consent]
            state = known.state_at(self.now)
            if state != "given":
                return Rule(f"consent_{state}")
            if known.left == 0:
                return Rule.CONSENT_USED_UP
        return None

    @rule(
        target=lookups,
        waves=st.lists(st.lists(consents, min_size=1, max_size=2), max_size=3),
    )
    def take(self, waves: list[list[ConsentId]]) -> MultipleResults[LookupId]:
        """Take the uses of one wave; each is granted or denied by itself."""
        uses = [a_use(self._fresh(), consents) for consents in waves]
        now = NOW + self.now * MINUTE
        with self.engine.begin() as connection:
            denied = take_uses(connection, uses, now, LEASE_MINUTES * MINUTE)
        for use in uses:
            wanted = use.claim.permit.consents
            assert self._expected(wanted) == denied.get(use.lookup)
            if use.lookup in denied:
                continue
            for consent in wanted:
                left = self.known[consent].left
                self.known[consent].left = None if left is None else left - 1
            self.open_until[use.lookup] = (wanted, self.now + LEASE_MINUTES)
        return multiple(*(use.lookup for use in uses if use.lookup not in denied))

    @rule(lookup=consumes(lookups), was_sent=st.booleans())
    def finish(self, lookup: LookupId, *, was_sent: bool) -> None:
        """End a use; what was not sent goes back."""
        with self.engine.begin() as connection:
            done = ([lookup], []) if was_sent else ([], [lookup])
            finish_uses(connection, *done, NOW + self.now * MINUTE)
        wanted, _ = self.open_until.pop(lookup)
        for consent in wanted:
            left = self.known[consent].left
            if not was_sent and left is not None:
                self.known[consent].left = left + 1

    @invariant()
    def both_agree(self) -> None:
        """State, uses left and open uses are the same in store and model."""
        if not hasattr(self, "minute"):
            return
        now = NOW + self.now * MINUTE
        with self.engine.begin() as connection:
            for name, known in self.known.items():
                consent = get_consent(connection, name)
                assert known.state_at(self.now) == consent.state_at(now).value
                assert known.left == consent.uses_left
                waiting = tuple(
                    sorted(
                        lookup
                        for lookup, (wanted, until) in self.open_until.items()
                        if name in wanted and self.now < until
                    )
                )
                assert waiting == open_uses(connection, name, now)


def test_the_store_follows_the_model(engine: Engine) -> None:
    """Whatever is asked, said, taken and suspended in any order, both agree."""
    run_state_machine_as_test(
        lambda: Lifecycle(engine),  # type: ignore[arg-type] # takes what makes one, too
        settings=settings(
            max_examples=40 if engine.dialect.name == "sqlite" else 15,
            stateful_step_count=25,
            deadline=None,
        ),
    )
