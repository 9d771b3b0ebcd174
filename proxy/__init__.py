"""wholestream: LLM streams that never break silently. This is the map of the package.

::

    __main__, cli      the commands: serve, config, healthcheck, demo
    app                one process: two listeners, lifecycle, drain
    admin              /metrics, /healthz, /readyz, /api/incidents
    relay              THE driver: one client request, executes the session's commands
    passthrough        everything that is no stream
    gate               who may come in: hosts, origins, targets, versions
    upstream           the outgoing side; the one table from exceptions to faults
    headers            hop-by-hop and allow-list rules, both directions
    metrics            collectors; a report is recorded once a stream
    incidents          the ring of incident records with masked bytes
    logs               one JSON object a line, or text on a terminal; the last scrub of secrets
    settings           settings from flags, environment and file; makes the core's Policy
    demo/              the embedded misbehaving upstream and the demonstration
    core/              pure and synchronous; start at its laws
        sse            bytes -> whole events
        grammars/      one file an endpoint family, a table GRAMMARS
        repairs/       what is mended in place, a table REPAIRS
        attempt        one upstream answer, read and judged
        recovery/      one file a strategy, a table LADDER
        states         the state table
        ledger         what is counted and reported
        session        the state machine: reads in, commands out

Imports go one way: core knows none of the others, and ``tests/test_layers.py`` holds the table.
"""
