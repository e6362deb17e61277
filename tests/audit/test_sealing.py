"""Subjects, tags and sections: who can read what, and what tampering does."""

import hmac
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.keyed import KeyedHash, mac, macs
from audit.keys import DirectoryKeys, load_keys, make_keys, save_keys
from audit.record import Kind, Section, Subject, read_leaf
from audit.sealing import SealedRecord, Sealer
from audit.sections import section_names, verify_section
from audit.sql import Place
from audit.subjects import SubjectDirectory
from schemas.errors import SettingsError, VerificationError
from tests.audit.examples import (
    FATHER,
    MOTHER,
    ORIGIN,
    Room,
    an_event,
    some_evidence,
)

bits = st.binary(min_size=32, max_size=32)


def sealed(
    room: Room, *subjects: Subject, kind: Kind = Kind.REQUEST_ACCEPTED
) -> SealedRecord:
    """Return the record of an event about some subjects."""
    room.directory.meet(subjects)
    known = [room.directory.lookup(subject) for subject in subjects]
    event = an_event(kind, subjects=subjects, evidence=some_evidence())
    return room.sealer.seal(event, [key for key in known if key is not None])


def opened(room: Room, record: SealedRecord) -> dict[Section, object]:
    """Return the sections of a record in the clear."""
    sections = room.sealer.open_sections(
        record.event.id,
        record.subject_refs,
        record.sealed,
        read_leaf(record.leaf).commitments,
    )
    return {name: section.value for name, section in sections.items()}


@given(bits, st.binary(max_size=200))
def test_the_fast_hashes_are_hmac(key: bytes, message: bytes) -> None:
    """All short cuts give what the standard library's HMAC gives."""
    expected = hmac.digest(key, message, "sha256")
    other = bytes(reversed(key))

    assert expected == mac(key, message)
    assert {"a": mac(other, b""), "b": expected} == macs(
        other + key, {"a": b"", "b": message}
    )
    assert expected == KeyedHash(key).digest(message)


def test_sections_open_as_what_was_sealed(either_room: Room) -> None:
    """With the keys, each section is there and is the one that the leaf commits to."""
    room = either_room
    record = sealed(room, MOTHER, FATHER)
    sections = opened(room, record)

    assert set(Section) == set(sections)
    assert some_evidence() == sections[Section.EVIDENCE]
    assert ["mother", "father"] == [
        who["role"]
        for who in sections[Section.SUBJECT]  # type: ignore[attr-defined] # a list
    ]
    assert {"kind": "official", "id": "clerk-4711@portal"} == sections[Section.ACTOR]


def test_a_record_has_the_sections_it_needs_and_no_other(room: Room) -> None:
    """What is not said has no section, and so no commitment."""
    event = an_event(
        Kind.POLICY_CHANGED, subjects=(), actor=None, case=None, matter="", details={}
    )
    record = room.sealer.seal(event, [])

    assert {} == read_leaf(record.leaf).commitments
    assert b"" == record.sealed


def test_an_end_does_not_repeat_its_beginning(room: Room) -> None:
    """A `request.ended` keeps its subject's tag, and seals what is new alone."""
    beginning = sealed(room, MOTHER).event
    subject = room.directory.lookup(MOTHER)
    assert subject is not None
    end = an_event(Kind.REQUEST_ENDED, ends=beginning.id, details={})
    record = room.sealer.seal(end, [subject])
    leaf = read_leaf(record.leaf)

    assert {} == leaf.commitments
    assert room.directory.actor_ref("official", "clerk-4711@portal") == record.actor_ref
    assert subject.tag(ORIGIN.encode(), leaf.salt) in leaf.tags


def test_records_of_one_append_share_no_random_bytes(room: Room) -> None:
    """Salts, tags and commitments differ, though much else is shared."""
    mother, father = room.directory.meet([MOTHER, FATHER])
    about: list[tuple[Subject, ...]] = [(MOTHER,), (), (MOTHER, FATHER), (MOTHER,)]
    people = [[mother], [], [mother, father], [mother]]
    events = [an_event(subjects=subjects) for subjects in about]
    records = room.sealer.seal_all(events, people)
    leaves = [read_leaf(record.leaf) for record in records]
    drawn = [leaf.salt for leaf in leaves]
    drawn += [tag for leaf in leaves for tag in leaf.tags]
    drawn += [value for leaf in leaves for value in leaf.commitments.values()]

    assert len(drawn) == len(set(drawn))
    for record, subjects in zip(records, about, strict=True):
        sections = opened(room, record)
        named = sections.get(Section.SUBJECT, [])
        assert [who.role for who in subjects] == [
            who["role"]
            for who in named  # type: ignore[attr-defined] # a list
        ]


@pytest.mark.parametrize(("people", "tags"), [(0, 1), (1, 1), (2, 2), (3, 4), (5, 8)])
def test_the_number_of_tags_tells_little(room: Room, people: int, tags: int) -> None:
    """Tags are filled up to 1, 2, 4 or 8, and each subject finds its own."""
    subjects = [Subject("role", "citizen_id", f"id-{n}") for n in range(people)]
    leaf = read_leaf(sealed(room, *subjects).leaf)

    assert tags == len(leaf.tags)
    for subject in subjects:
        known = room.directory.lookup(subject)
        assert known is not None
        assert known.tag(ORIGIN.encode(), leaf.salt) in leaf.tags
        assert known.tag(b"another log", leaf.salt) not in leaf.tags


def test_one_person_in_two_roles_has_one_tag(either_room: Room) -> None:
    """The same tag twice would show that two roles are one person."""
    room = either_room
    record = sealed(room, MOTHER, Subject("applicant", "citizen_id", MOTHER.id))

    assert 1 == len(read_leaf(record.leaf).tags)
    assert 2 == len(opened(room, record)[Section.SUBJECT])  # type: ignore[arg-type] # a list


def test_the_place_of_a_tag_tells_nothing(room: Room) -> None:
    """Tags are sorted, so that real ones do not stand before those that fill up."""
    people = [Subject("role", "citizen_id", f"id-{n}") for n in range(5)]

    for _ in range(5):
        tags = read_leaf(sealed(room, *people).leaf).tags
        assert sorted(tags) == list(tags)


def test_a_section_that_is_gone_is_missed(room: Room) -> None:
    """A leaf that commits to sections is not satisfied by none."""
    record = sealed(room, MOTHER)

    with pytest.raises(VerificationError, match="missing"):
        room.sealer.open_sections(
            record.event.id,
            record.subject_refs,
            b"",
            read_leaf(record.leaf).commitments,
        )


def test_two_records_about_one_person_can_not_be_linked(room: Room) -> None:
    """Without the subject's key, tags, commitments and salts are all different."""
    first, second = (read_leaf(sealed(room, MOTHER).leaf) for _ in range(2))

    assert not set(first.tags) & set(second.tags)
    assert not set(first.commitments.values()) & set(second.commitments.values())
    assert first.salt != second.salt


@settings(deadline=None)
@given(st.data())
def test_a_flipped_bit_in_a_section_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """No bit of a sealed section can change unseen."""
    folder = tmp_path_factory.mktemp("room")
    keys = make_keys(ORIGIN)
    directory = SubjectDirectory(folder / "subjects.db", keys.directory)
    sealer = Sealer(ORIGIN, keys.shard, directory)
    record = sealer.seal(an_event(subjects=()), [])
    at = data.draw(st.integers(0, len(record.sealed) * 8 - 1))
    flipped = bytearray(record.sealed)
    flipped[at // 8] ^= 1 << at % 8

    with pytest.raises(VerificationError):
        sealer.open_sections(
            record.event.id, "", bytes(flipped), read_leaf(record.leaf).commitments
        )
    directory.close()


def test_a_section_can_not_be_moved_to_another_record(room: Room) -> None:
    """Sections of one record do not open under another with the same keys."""
    first, second = sealed(room, MOTHER), sealed(room, MOTHER)

    with pytest.raises(VerificationError, match="can't be opened"):
        room.sealer.open_sections(
            second.event.id,
            second.subject_refs,
            first.sealed,
            read_leaf(second.leaf).commitments,
        )


def test_a_section_must_be_the_one_that_the_leaf_commits_to(room: Room) -> None:
    """Right keys and another commitment: refused."""
    record = sealed(room, MOTHER)
    commitments = dict(read_leaf(record.leaf).commitments)
    commitments["actor"] = bytes(32)

    with pytest.raises(VerificationError, match="commits to"):
        room.sealer.open_sections(
            record.event.id, record.subject_refs, record.sealed, commitments
        )


def test_one_section_can_be_shown_without_the_others(room: Room) -> None:
    """Section and opening verify against the leaf alone; another content does not."""
    record = sealed(room, MOTHER)
    leaf = read_leaf(record.leaf)
    sections = room.sealer.open_sections(
        record.event.id,
        record.subject_refs,
        record.sealed,
        leaf.commitments,
        frozenset({Section.MATTER}),
    )
    shown = sections[Section.MATTER]

    assert {Section.MATTER} == set(sections)
    verify_section(leaf.commitments["matter"], shown.opening, shown.content)
    with pytest.raises(VerificationError):
        verify_section(leaf.commitments["matter"], shown.opening, b"{}")


def test_losing_one_subject_closes_what_speaks_of_them(either_room: Room) -> None:
    """Without the father's key, what concerns both can't be opened; the rest can."""
    room = either_room
    both, mother = sealed(room, MOTHER, FATHER), sealed(room, MOTHER)
    father = room.directory.lookup(FATHER)
    assert father is not None
    room.change("DELETE FROM subject WHERE ref = ?", (father.ref,), part="subjects")

    assert set(Section) == set(opened(room, mother))
    with pytest.raises(VerificationError, match="is gone"):
        opened(room, both)


def test_another_shard_key_opens_nothing(room: Room) -> None:
    """Without the shard's key no section of the shard can be opened."""
    record = sealed(room, MOTHER)
    stranger = Sealer(ORIGIN, bytes(32), room.directory)

    with pytest.raises(VerificationError, match="can't be opened"):
        stranger.open_sections(
            record.event.id,
            record.subject_refs,
            record.sealed,
            read_leaf(record.leaf).commitments,
        )


def test_sections_cut_short_are_refused(room: Room) -> None:
    """No cut of them opens, and what is too short is not even looked at."""
    record = sealed(room, MOTHER)
    commitments = read_leaf(record.leaf).commitments

    for end in range(len(record.sealed)):
        with pytest.raises(VerificationError, match=r"malformed|opened|missing"):
            room.sealer.open_sections(
                record.event.id, record.subject_refs, record.sealed[:end], commitments
            )
    with pytest.raises(VerificationError, match="malformed"):
        section_names(record.sealed[:156])
    assert sorted(Section) == section_names(record.sealed[:157])


@pytest.mark.parametrize("code", [0, 16, 255])
def test_what_is_no_set_of_sections_is_malformed(code: int) -> None:
    """The first byte says which of the four sections there are, and one there is."""
    with pytest.raises(VerificationError, match="malformed"):
        section_names(bytes([code]) + bytes(1_000))


def test_sections_are_named_without_any_key(room: Room) -> None:
    """What is sealed says which sections it holds: those that the leaf commits to."""
    for fields in ({}, {"actor": None}, {"evidence": {"id": "1"}}):
        record = room.sealer.seal(an_event(subjects=(), **fields), [])

        assert list(read_leaf(record.leaf).commitments) == section_names(record.sealed)


def test_a_section_that_the_leaf_does_not_know_is_refused(room: Room) -> None:
    """Sealed sections that are more than the leaf commits to don't open."""
    record = sealed(room, MOTHER)
    commitments = dict(read_leaf(record.leaf).commitments)
    del commitments["actor"]

    with pytest.raises(VerificationError, match="commits to"):
        room.sealer.open_sections(
            record.event.id, record.subject_refs, record.sealed, commitments
        )


def test_a_section_that_is_too_large_is_refused(room: Room) -> None:
    """Nothing unbounded enters the log."""
    with pytest.raises(ValueError, match="section"):
        room.sealer.seal(an_event(subjects=(), details={"text": "x" * 70_000}), [])


def test_a_section_may_be_as_large_as_its_limit(room: Room) -> None:
    """65,535 bytes are sealed and open again; beside other sections as well."""
    text = "x" * (65_535 - len('{"case":null,"matter":"newborn@1","text":""}'))
    event = an_event(subjects=(), case=None, details={"text": text})
    record = room.sealer.seal(event, [])

    assert text == opened(room, record)[Section.MATTER]["text"]  # type: ignore[index] # a dict
    with pytest.raises(ValueError, match="section"):
        room.sealer.seal(event._replace(details={"text": text + "x"}), [])


def test_more_than_eight_subjects_are_refused(room: Room) -> None:
    """There are no more tags than eight."""
    with pytest.raises(ValueError, match="subjects"):
        sealed(room, *[Subject("role", "citizen_id", f"id-{n}") for n in range(9)])


def test_an_end_names_its_beginning_and_nothing_else_does(room: Room) -> None:
    """A `request.ended` without the look-up that it ends is refused."""
    beginning = an_event(subjects=())
    end = an_event(Kind.REQUEST_ENDED, subjects=())
    other = an_event(Kind.CASE_OPENED, subjects=(), ends=beginning.id)

    assert room.sealer.seal(end._replace(ends=beginning.id), [])
    for wrong in (end, other):
        with pytest.raises(ValueError, match="ends"):
            room.sealer.seal(wrong, [])


def test_a_person_has_one_reference_however_the_id_is_typed(either_room: Room) -> None:
    """Case, white space and full-width characters make no second person."""
    room = either_room
    room.directory.meet([Subject("mother", "citizen_id", "99010119900307002X")])
    full_width = "\uff19\uff19" + "010119900307002\uff38"
    typed = ("99010119900307002X", " 99010119900307002x ", full_width)
    refs = {
        found.ref
        for text in typed
        if (found := room.directory.lookup(Subject("other", "citizen_id", text)))
    }

    assert 1 == len(refs)
    assert room.directory.lookup(Subject("m", "passport", "99010119900307002X")) is None


def test_oversight_finds_who_is_behind_a_reference(either_room: Room) -> None:
    """The directory alone knows the id, and knows nobody by a made-up reference."""
    room = either_room
    record = sealed(room, MOTHER)

    assert ("citizen_id", MOTHER.id) == room.directory.identity(record.subject_refs)
    assert room.directory.identity("nobody") is None


def test_a_directory_that_was_tampered_with_is_named(either_room: Room) -> None:
    """A changed wrapped key or sealed id is refused."""
    room = either_room
    record = sealed(room, MOTHER)
    nothing = (bytes(60),)
    room.change("UPDATE subject SET sealed_id = ?", nothing, part="subjects")
    with pytest.raises(VerificationError, match="id can't be opened"):
        room.directory.identity(record.subject_refs)
    room.change("UPDATE subject SET wrapped_key = ?", nothing, part="subjects")
    with pytest.raises(VerificationError, match="key can't be unwrapped"):
        room.directory.identity(record.subject_refs)


def test_few_subjects_are_kept_in_memory(place: Place) -> None:
    """More people than the cache holds are found all the same."""
    keys = DirectoryKeys(bytes(32), bytes(32))
    directory = SubjectDirectory(place, keys, cached=3)
    people = [Subject("role", "citizen_id", f"id-{n}") for n in range(20)]
    directory.meet(people)
    refs = [known.ref for who in people * 2 if (known := directory.lookup(who))]
    directory.close()

    assert 40 == len(refs)
    assert refs[:20] == refs[20:]
    assert 20 == len(set(refs))


def test_keys_are_kept_and_never_overwritten(tmp_path: Path) -> None:
    """Keys come back as they were; a second set in the folder is refused."""
    keys = make_keys(ORIGIN)
    save_keys(keys, tmp_path / "keys")
    found = load_keys(tmp_path / "keys")

    assert (keys.shard, keys.directory) == (found.shard, found.directory)
    assert keys.log.skey == found.log.skey
    assert keys.receipt.skey == found.receipt.skey
    with pytest.raises(SettingsError, match="there already"):
        save_keys(keys, tmp_path / "keys")


def test_keys_that_others_may_read_are_refused(tmp_path: Path) -> None:
    """A key file with loose permissions, of another log, or missing: refused."""
    save_keys(make_keys(ORIGIN), tmp_path)
    (tmp_path / "shard.key").chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        load_keys(tmp_path)
    (tmp_path / "shard.key").chmod(0o600)
    (tmp_path / "receipt.key").write_text(make_keys("other.example").receipt.skey)
    with pytest.raises(SettingsError, match="same log"):
        load_keys(tmp_path)
    (tmp_path / "log.key").write_text("nonsense")
    with pytest.raises(SettingsError, match="malformed"):
        load_keys(tmp_path)
    (tmp_path / "log.key").unlink()
    with pytest.raises(SettingsError, match="can't be read"):
        load_keys(tmp_path)
