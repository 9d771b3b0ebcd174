"""Fuzzing: what must hold for any bytes, and two engines that look for bytes where it does not.

::

    cases              how bytes are read as a case: a few choices, then bodies
    framing            the splitter, against the event stream format told anew
    asking             requests, policies and quirks, by number
    driving            a session driven as the edge drives it
    signs              what must be in an input before a stream may be called complete
    streaming          the grammars and the session, over all of it
    joining            what a second answer may add to the first
    mending            the repairs
    crossing           headers, targets, the peek at a request, errors, documents
    properties         the table of the above: each a function of bytes that raises AssertionError
    strategies         hypothesis: streams broken in the ways that streams break
    seeds, corpus/     inputs to begin with, and those that were worth keeping
    coverage_guided    atheris; keeping: which of its finds are kept

``README.md`` says how they are run.
"""
