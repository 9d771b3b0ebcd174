"""The core: reads become whole events, endings become commands.

The laws, which hold for every module below this one:

1.  No world. No socket, no clock, no random number, no log, no setting, no metric.
    Time is an argument, a wait is a field of a command, a limit is a constructor argument.
    ``tests/test_layers.py`` holds the list of modules that may not be imported here.
2.  Input never raises. Whatever an upstream sends becomes an event, a repair or a fault.
    An exception that leaves the core is a bug of ours and nothing else.
3.  Whole events only. What ``StreamSession.receive_data`` returns ends at an event boundary.
4.  No success that the upstream did not give. ``[DONE]`` is added only when every choice
    has its ``finish_reason``; ``response.completed`` is never added.
5.  Nothing outside ``session`` changes the state, and the session does not know which
    endpoint it serves: that is the grammar's job.

The words: a *read* is what one socket read gave, an *event* is an SSE event, an *attempt* is
one upstream request, a *fault* is what went wrong with it, an *incident* is the counted fact,
a *repair* is a fault mended in place, *commit* is the moment the client could act on what it
was given.

Read on in ``sse``, then ``grammars.chat``, then ``session``.
"""
