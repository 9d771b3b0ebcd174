"""The edge, module by module: real sockets on loopback, none of our own parts replaced."""
