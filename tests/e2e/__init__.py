"""The production entry point as a child process, between raw sockets on both sides.

A package, other than the rest of the tests, because it has a ``conftest`` of its own.

::

    child        the proxy as a process: its ports, log, metrics, memory, end
    wire         a client that sees HTTP chunks; whole events, one ending
    stage        an upstream whose answer is a coroutine of the test
    sockets      an upstream of WebSockets, and clients of it
    doors        every way to ask for a stream, and what a whole answer is there
    cuts         streams cut at any byte, and what must come of it
    faultlist    the sixteen faults of the Failover Bench, and their judge
    spliced      answers that break and are joined on, of every kind
    reading      the SDKs for Python and Node, all that an application has of a stream
    heard        what must be the same of it
"""
