"""The edge, module by module: real sockets on loopback, none of our own parts replaced.

``loopback`` has raw servers and clients; ``test_x`` covers ``proxy/x.py``.
"""

import support  # noqa: F401 - it loads the profile that properties are tested with
