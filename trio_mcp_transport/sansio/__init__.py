"""Protocol machines without I/O: bytes in, events out; events in, bytes out.

Nothing in here knows Trio, sockets, clocks, threads or randomness; a test walks the
imports. Adapters in `transports/` do the reading, writing and waiting.
"""
