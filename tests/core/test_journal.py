"""The journal: what the client was given, and how much of it is remembered."""

from __future__ import annotations

from support import sse

from proxy.core.journal import Journal
from proxy.core.sse import Event

OPENER, TEXT, MORE = Event(b"", b'{"a":0}'), Event(b"n", b'{"b":1}'), Event(b"", b'{"c":2}')


def test_an_event_is_noted_and_leaves_encoded() -> None:
    """Counted with its framing, as the client gets it."""
    journal = Journal(1000)
    assert journal.give(OPENER) == sse('{"a":0}')
    assert journal.give(TEXT) == sse('{"b":1}', name="n")
    assert (journal.events, journal.size) == (2, len(sse('{"a":0}')) + len(TEXT.encode()))
    assert journal.last == TEXT.data


def test_openers_are_always_remembered_and_content_only_where_it_is_of_use() -> None:
    """A healthy stream that nothing can be joined to costs no memory."""
    for keeps in (False, True):
        journal = Journal(1000, keeps)
        journal.give(OPENER)
        assert journal.complete
        journal.content = True
        journal.give(TEXT)
        assert journal.given == ([OPENER, TEXT] if keeps else [OPENER])
        assert journal.complete is keeps
        assert journal.last == TEXT.data


def test_past_its_cap_nothing_but_the_first_events_is_remembered() -> None:
    """They have the identity, which an error event needs; nothing can be joined on any more."""
    size = len(OPENER.encode()) + 4 * len(TEXT.encode())
    journal = Journal(size, keeps=True)
    journal.give(OPENER)
    for _ in range(4):
        journal.give(TEXT)
    assert journal.given == [OPENER, *[TEXT] * 4]
    assert journal.complete
    journal.give(MORE)
    assert journal.given == [OPENER, *[TEXT] * 3]
    assert journal.full
    assert not journal.complete
    journal.give(MORE)
    assert journal.given == [OPENER, *[TEXT] * 3]
    assert (journal.events, journal.last) == (7, MORE.data)


def test_an_event_larger_than_the_cap_is_given_and_not_remembered() -> None:
    """The cap bounds memory, never the stream."""
    journal = Journal(3)
    assert journal.give(OPENER) == OPENER.encode()
    assert (journal.given, journal.full) == ([], True)
