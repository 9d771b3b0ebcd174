"""wholestream: LLM streams that never break silently. This is the map of the package.

::

    __main__, cli      the commands: serve, config, healthcheck, demo
    app                one process: two listeners, lifecycle, drain
    server             aiohttp's server with its error pages and foreign bytes in logs taken out
    api, admin         the two listeners: the API; metrics, health, readiness, incidents
    gate               who may come in: hosts, origins, methods, targets
    relay              THE driver: one client request, executes the session's commands
    clocks             when the upstream's patience is up, when the client must hear
    downstream         the client's side: headers once, whole writes, one end
    upstream, pool     the outgoing side; the one table from exceptions to faults
    decoding, sniff    bodies compressed unasked, streams that do not call themselves so
    headers, replies   what crosses the proxy in both directions; errors of its own
    edge               what all requests of the process share
    record             what one request leaves behind, through the next three
    metrics            the Prometheus collectors
    incidents          the ring of incident records, with masked bytes
    logs               one JSON object a line, or text on a terminal; the last scrub of secrets
    settings           from flags, environment and file; makes the core's Policy
    demo/              the embedded misbehaving upstream and the demonstration
    core/              pure and synchronous; start at its laws
        sse            bytes -> whole events
        request        what was asked for
        grammars/      one file an endpoint family, a table GRAMMARS
        repairs/       what is mended in place, a table REPAIRS
        attempt        one upstream answer, read and judged
        recovery/      one file a strategy, a table LADDER
        budget         the retry budget shared by all streams
        fault, errors  what can go wrong; what upstreams say of it, what clients must hear
        states         the state table
        journal        what the client has been given
        ledger         what is counted and reported
        commands       what the session tells the edge
        session        the state machine: reads in, commands out

Imports go one way: the core knows none of the others, and ``tests/test_layers.py`` holds the
table. Read on in ``core``, ``core.sse``, ``core.grammars.chat``, ``core.session``, ``relay``.
"""
