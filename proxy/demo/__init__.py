"""The embedded misbehaving upstream and the demonstration that runs on it.

::

    answers            the vocabulary: what was asked, what one answer puts on the wire
    shapes             texts and events, of which bodies are made
    bodies             healthy streams and JSON answers, a table over bodies_chat,
                       bodies_responses, bodies_media and bodies_runs
    misbehaviour       ways to break them; misbehaviour_errors, misbehaviour_forms and
                       misbehaviour_chats have more, rescues what comes after a break
    scenario           what a scenario is
    scenarios          the table: SCENARIOS, from scenarios_broken, scenarios_errors,
                       scenarios_rescued, scenarios_mended and scenarios_passed
    wire               HTTP/1.1 by hand
    upstream           MisbehavingUpstream, which tests use as well
    seen               what an application saw, and whether that is as it should be
    application        the openai SDK; the one module that imports it
    child              the real proxy as a child process
    render, showcase   the demonstration

Nothing here knows the proxy's inside: the demonstration is a judge, and starts the proxy as a
user would.
"""
