"""The benchmark: what a relayed event costs, here and in other proxies.

Knows its own upstream and its own load generator, both on raw sockets, and how to start each
system between them. Must not import anything of ``proxy``: wholestream is run and asked like any
other system.
"""
