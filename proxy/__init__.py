"""wholestream: LLM streams that never break silently. This is the map of the package.

::

    __main__, cli      the commands: serve, check, config, healthcheck, demo
    app                the running proxy: one process with two listeners, or a parent with workers
    service            the API of one process, and its drain
    parent             several processes: the port, the signals, the admin listener
    crew, workers      so many workers, kept alive; one of them, from the parent's side
    worker             one of them, from inside
    channel, totals    what they say to each other; their numbers, added up
    listening          addresses: had, shared or refused
    server             aiohttp's server with its error pages and foreign bytes in logs taken out
    api, admin         the two listeners: the API; metrics, health, readiness, incidents
    gate               who may come in: hosts, origins, methods, targets
    uploads            what a multipart body asks for, before its files
    relay              THE driver: one client request, executes the session's commands
    reception          one answer: a stream, JSON, a page, an error; how it reaches the client
    flow               the hot path: a read of the upstream is a write to the client
    exchange           what these two share: the session, the clocks, both sides
    tunnel, raw        a WebSocket's handshake; from there on its bytes, both ways
    clocks             when the upstream's patience is up, when the client must hear
    downstream         the client's side: headers once, whole writes, one end
    asking             from a command to a request on the wire
    upstreams          the primary and the others, by name
    upstream           requests to one base URL; the one table from exceptions to faults
    answer             what an upstream answers: read with deadlines, or taken as it comes
    origin             from a target to a URL of that upstream, and nobody else's
    clients, pool      the HTTP clients and their connections
    intake             what came of a body and was not taken yet
    decoding, sniff    bodies compressed unasked, and what a body is that does not say
    headers, replies   what crosses the proxy in both directions; errors of its own
    edge               what all requests of the process share
    record             what one request leaves behind, through the next three
    metrics, tally     the Prometheus collectors; those for what happens at every event
    incidents          the ring of incident records, with masked bytes
    logs               one JSON object a line, or text on a terminal; the last scrub of secrets
    settings           all settings, checked; makes the core's Policy
    settings_tables    those that are tables: recovery, upstreams, fallbacks
    settings_quirks    how upstreams differ, and the profiles that preset it
    settings_types     what settings are made of
    settings_load      from flags, environment and file; errors in one line
    lint/              the command check: a captured body, judged by the core
    demo/              the embedded misbehaving upstream and the demonstration
    core/              pure and synchronous; start at its laws
        sse            bytes -> whole events
        request        what was asked for
        policy         limits and choices, quirks of upstreams
        grammars/      one file an endpoint family, a table GRAMMARS; where answers are joined
        repairs/       what is mended in place, a table REPAIRS; shapes that must be asked for
        document       one JSON object in place of a stream
        doubt          what looks like success and may be none
        judgement      one event: mended, read, joined, believed
        shortcut       one ordinary event, which needs none of that
        attempt        one upstream answer: its reads and its end
        recovery/      one file a strategy, plan and splice, a table LADDER
        budget         what all streams share: the retry budget, the circuit breakers
        fault, errors  what can go wrong; what upstreams say of it, what clients must hear
        states         the state table
        hold           what waits, and until when
        journal        what the client has been given
        outlet         the way out, through both
        course         what was tried, of whom; what may be tried next
        ledger         what is counted and reported
        telling        how a client is told that its answer broke
        commands       what the session tells the edge
        facts          what the edge may ask the session
        session        the state machine: reads in, commands out

Imports go one way: the core knows none of the others, and ``tests/test_layers.py`` holds the
table. Read on in ``core``, ``core.sse``, ``core.grammars.chat``, ``core.session``, ``relay``.
"""
