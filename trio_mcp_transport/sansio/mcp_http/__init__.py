"""MCP over HTTP without I/O: tables, events and verdicts, one module per era and side.

Servers ask `server.ServerEndpoint` about each request; clients build theirs with the
`*_client` modules. Nothing here reads, writes, waits or looks at a clock.
"""
