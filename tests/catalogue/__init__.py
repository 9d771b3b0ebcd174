"""The catalogue of faults, each with its wire bytes and its innocent look-alike.

::

    tale              what an upstream does to one request, and what must come of it
    play              a tale through the core: whole, byte by byte, in random cuts
    ends              faults of the transport, and of where an answer ends
    errors            errors told in a stream or in place of one
    framing           events in forms that break clients
    meaning           whole events that say too little, too much or it twice
    edges             faults outside of a stream's bytes, by the tests that show them
    cases             all of them by number
    test_plays        each case comes to what it says
    test_catalogue    docs/faults.md, the scenarios and the cases agree

A package, other than most of the tests, because its files use each other.
"""

import pytest

# What it asserts is to be told in full, as of a test.
pytest.register_assert_rewrite("catalogue.play")
