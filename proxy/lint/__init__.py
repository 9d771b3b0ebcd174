"""The command ``check``: a captured body judged by the proxy's own core.

::

    capture            what may stand around a body: heads of HTTP, compression; its blocks
    endpoints          which endpoint a body is of, by its first events
    forms              what has one name and several fates, told apart
    sdks               what the official SDKs do with each fault and repair: SURVIVAL
    verdict            what is known of a capture
    reading            ``lint``: from bytes to a verdict, through the core
    report             a verdict in words, and as JSON
    command            files and pipes in, exit codes out

Nothing here frames, reads or mends anything in a way of its own.
"""
