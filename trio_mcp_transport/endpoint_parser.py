"""From what people write to an `Endpoint`: URLs, key=value lists, mappings, JSON, environment.

Called by `connect` and the command line. Pure: the environment is an argument. Every form
is first brought to one shape (scheme, target, parameters), of which `endpoint_schemes`
makes the endpoint. Strict: an unknown or doubled key, a number that is not wholly one, or
a missing part is a `ConfigurationError` that names it, and never shows a secret.

The forms, with one address as the example of each:

- URL: ``tcp://127.0.0.1:9000?nodelay=false&connect_timeout=5``. Keys are the names of the
  fields of the endpoint and of `ChannelOptions`. Durations are seconds, or milliseconds
  with ``_ms`` behind the name; 0 means no limit. Permissions are octal. What has a meaning
  in URLs is percent-encoded. The command of ``stdio:`` is written as in a POSIX shell,
  and its options stand before it: ``stdio:?stderr=drop python server.py``.
- List, with its transport named beside it: ``bind_address=127.0.0.1:9000; nodelay=false``.
  Entries are separated by ``;``, and those of stdio by white space as well. One of HTTP
  may name it itself: ``scheme=http; host=localhost; port=9000; rpcPath=/rpc``.
- Mapping or JSON text: ``{"type": "tcp", "host": "127.0.0.1", "port": 9000}``, or
  ``{"url": "tcp://127.0.0.1:9000", "nodelay": false}``, or an entry of ``mcpServers``,
  such as ``{"command": "npx", "args": ["-y", "some-server"], "env": {"TOKEN": "..."}}``,
  or an object that has ``mcpServers``. The URL of an HTTP server is its own there, query
  and all: ``{"type": "http", "url": "https://a.example/mcp", "headers": {...}}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NoReturn, TypeAlias, TypeGuard

from .endpoint_schemes import find_parser, transport_names
from .endpoint_values import parse_key_values, parse_query, read_milliseconds
from .endpoints import Endpoint
from .errors import ConfigurationError
from .http_schemes import HTTP_ENDPOINTS, HTTP_TYPES
from .websocket_schemes import WEBSOCKET_ENDPOINTS, WEBSOCKET_TYPES

__all__ = ["EndpointSpec", "endpoint_from_environment", "parse_endpoint"]

#: What every function that wants an endpoint accepts.
EndpointSpec: TypeAlias = str | Mapping[str, object] | Endpoint

#: What every form is brought to: scheme, target, parameters.
_Normal: TypeAlias = tuple[str, str, dict[str, object]]

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
# A name alone is what older configurations say of shared memory.
_BARE_CHANNEL = re.compile(r"[A-Za-z0-9._-]*(\?.*)?", re.DOTALL)
_OPTIONS_FIRST = re.compile(r"\?(\S*)(.*)", re.DOTALL)
_ADDRESSES = {
    "http": "http://127.0.0.1:8080/mcp",
    "tcp": "tcp://127.0.0.1:8080",
    "tls": "tls://127.0.0.1:8080",
    "unix": "unix:/tmp/mcp.sock",
    "websocket": "ws://127.0.0.1:8080/mcp",
}
#: The schemes whose URLs are those of servers, so that these may have a query of their own.
_WEB_SCHEMES = HTTP_ENDPOINTS.keys() | WEBSOCKET_ENDPOINTS.keys()
_WEB_TYPES = {**HTTP_TYPES, **WEBSOCKET_TYPES}
#: What several schemes are asked for by.
_FAMILIES = {"http": HTTP_ENDPOINTS.keys(), "ws": WEBSOCKET_ENDPOINTS.keys()}
#: Types of mappings that have no URL.
_SPELLINGS = dict.fromkeys(HTTP_TYPES, "http") | {"sse": "sse+http", "websocket": "ws"}
_TIMEOUT_VARIABLE = "MCP_STDIOTRANSPORT_TIMEOUT_MS"
_TIMEOUT_KEYS = ("timeout_ms", "request_timeout_ms", "request_timeout")


def parse_endpoint(
    spec: EndpointSpec, *, transport: str | None = None, name: str | None = None
) -> Endpoint:
    """Make an endpoint of what a person or a configuration file says.

    Args:
        spec: A URL, a key=value list, a mapping, JSON text, or an endpoint, which is
            returned as it is.
        transport: The scheme, for a list or a mapping that does not name it. A form that
            does name it must agree. ``http`` stands for all schemes of HTTP, ``websocket``
            for ``ws`` and ``wss``.
        name: Which entry of ``mcpServers``; needless if there is only one.

    Raises:
        ConfigurationError: The text says what is wrong.
    """
    if isinstance(spec, Endpoint):
        _no_name(name)
        if transport != "websocket" or spec.scheme not in WEBSOCKET_ENDPOINTS:
            _agree(spec.scheme, transport)
        return spec
    return _build(*_normalise(spec, transport, name))


def endpoint_from_environment(
    environ: Mapping[str, str], spec: EndpointSpec | None = None, *, transport: str | None = None
) -> Endpoint:
    """Make the endpoint that the environment asks for; what is explicit beats it.

    ``TRANSPORT`` is ``stdio`` (also when unset or empty), ``tcp`` (127.0.0.1:8080),
    ``tls`` (there too), ``http`` (http://127.0.0.1:8080/mcp), ``websocket``
    (ws://127.0.0.1:8080/mcp) or ``unix`` (/tmp/mcp.sock). With stdio, ``MCP_STDIO_CONFIG`` is
    its key=value list, and ``MCP_STDIOTRANSPORT_TIMEOUT_MS`` is the request timeout (0 for
    none) unless the list or `spec` gives one. An empty variable counts as unset.

    Args:
        environ: Usually `os.environ`.
        spec: An explicit endpoint. From the environment it then takes only the request
            timeout, and that only if it is of stdio and not an object already.
        transport: As for `parse_endpoint`, for `spec`.

    Raises:
        ConfigurationError: A variable or the spec is wrong; the text names which.
    """
    if isinstance(spec, Endpoint):
        return parse_endpoint(spec, transport=transport)
    if spec is not None:
        return _build(*_with_timeout(environ, *_normalise(spec, transport, None)))
    chosen = environ.get("TRANSPORT") or "stdio"
    if chosen in _ADDRESSES:
        return parse_endpoint(_ADDRESSES[chosen])
    if chosen != "stdio":
        known = ", ".join(("stdio", *_ADDRESSES))
        raise ConfigurationError(f"TRANSPORT must be one of {known}, not {chosen!r}")
    try:
        found = _normalise(environ.get("MCP_STDIO_CONFIG", ""), "stdio", None)
        _build(*found)
    except ConfigurationError as error:
        raise ConfigurationError(f"MCP_STDIO_CONFIG: {error}") from error
    return _build(*_with_timeout(environ, *found))


def _with_timeout(
    environ: Mapping[str, str], scheme: str, target: str, parameters: dict[str, object]
) -> _Normal:
    text = environ.get(_TIMEOUT_VARIABLE)
    if scheme == "stdio" and text:
        read_milliseconds(_TIMEOUT_VARIABLE, text)  # so that an error names the variable
        if parameters.keys().isdisjoint(_TIMEOUT_KEYS):
            parameters = parameters | {"timeout_ms": text}
    return scheme, target, parameters


def _build(scheme: str, target: str, parameters: dict[str, object]) -> Endpoint:
    endpoint = find_parser(scheme)(target, parameters)
    if endpoint.scheme != scheme:
        raise TypeError(f"the parser of {scheme!r} made an endpoint of {endpoint.scheme!r}")
    return endpoint


def _normalise(
    spec: str | Mapping[str, object], transport: str | None, name: str | None
) -> _Normal:
    if transport == "websocket":
        transport = "ws"
    if isinstance(spec, Mapping):
        return _from_mapping(spec, transport, name)
    if not isinstance(spec, str):
        raise ConfigurationError(
            f"an endpoint is a string, a mapping or an Endpoint, not {type(spec).__name__}"
        )
    text = spec.strip()
    if text.startswith("{"):
        return _from_mapping(_read_json(text), transport, name)
    _no_name(name)
    if _URL.fullmatch(text) is not None:
        return _from_url(text, transport)
    if transport is None and "=" in text:
        # The lists of HTTP may name their scheme themselves.
        values = parse_key_values(text)
        if "scheme" in values:
            return _from_http_list(dict(values), None)
    if transport is None:
        raise ConfigurationError(
            f"an endpoint starts with its scheme ({', '.join(transport_names())}) and a colon;"
            " a key=value list needs its transport named beside it"
        )
    if transport == "shm" and _BARE_CHANNEL.fullmatch(text) is not None:
        return _from_url(f"shm://{text}", transport)
    find_parser(transport)
    # The stdio lists of older configurations were separated by blanks as well.
    values = parse_key_values(text, whitespace=transport == "stdio")
    if transport in HTTP_ENDPOINTS:
        return _from_http_list(dict(values), transport)
    return transport, "", dict(values)


def _from_http_list(values: dict[str, object], transport: str | None) -> _Normal:
    scheme = values.pop("scheme", transport)
    if not isinstance(scheme, str) or scheme not in HTTP_ENDPOINTS:
        raise ConfigurationError(f"scheme must be one of {', '.join(HTTP_ENDPOINTS)}")
    return _in_family(scheme, transport), "", values


def _from_url(text: str, transport: str | None) -> _Normal:
    found = _URL.fullmatch(text)
    if found is None:
        raise ConfigurationError("url must start with its scheme and a colon")
    scheme, rest = found.group(1).lower(), found.group(2)
    find_parser(scheme)
    scheme = _in_family(scheme, transport)
    _need_slashes(scheme, rest)
    if scheme != "stdio":
        target, _, query = rest.partition("?")
    elif (options := _OPTIONS_FIRST.fullmatch(rest)) is not None:
        query, target = options.groups()
    else:
        # A question mark further on belongs to the command.
        query, target = "", rest
    return scheme, target, dict(parse_query(query))


# -- Mappings --------------------------------------------------------------------------


def _read_json(text: str) -> Mapping[str, object]:
    # The standard library's reader, as it can refuse doubled keys. Its errors tell
    # positions and never content.
    import json

    try:
        decoded: object = json.loads(
            text, object_pairs_hook=_refuse_doubles, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"the endpoint starts as JSON, but: {error}") from None
    assert isinstance(decoded, dict)  # the text starts with "{"
    return decoded


def _refuse_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ConfigurationError(f"{key} is given twice")
        found[key] = value
    return found


def _refuse_constant(constant: str) -> NoReturn:
    raise ConfigurationError(f"the endpoint starts as JSON, but {constant} is not JSON")


def _from_mapping(
    mapping: Mapping[str, object], transport: str | None, name: str | None
) -> _Normal:
    if "mcpServers" in mapping:
        # The other keys of such a file are its host's own business.
        return _from_mapping(_pick_server(mapping["mcpServers"], name), transport, None)
    _no_name(name)
    if not all(isinstance(key, str) for key in mapping):
        raise ConfigurationError("the keys of the mapping must be strings")
    parameters = dict(mapping)
    named, url = _pop_text(parameters, "type"), _pop_text(parameters, "url")
    target = ""
    if url is not None and (web := _web_server(url.strip(), named, parameters)) is not None:
        return _in_family(web[0], transport), *web[1:]
    if url is not None:
        scheme, target, options = _from_url(url.strip(), None)
        for key, value in options.items():
            if key in parameters:
                raise ConfigurationError(f"{key} is given twice")
            parameters[key] = value
    else:
        scheme = named or transport or ("stdio" if "command" in parameters else "")
        if not scheme:
            raise ConfigurationError("the mapping names no transport: give type, url or command")
        scheme = _SPELLINGS.get(scheme, scheme)
        named = scheme if named else None
        find_parser(scheme)
        if scheme in HTTP_ENDPOINTS:
            parameters.setdefault("scheme", scheme)
            return _from_http_list(parameters, transport or scheme)
    _agree(scheme, named)
    _agree(scheme, transport)
    return scheme, target, _process_fields(parameters) if scheme == "stdio" else parameters


def _web_server(url: str, named: str | None, options: dict[str, object]) -> _Normal | None:
    """A server with a URL as MCP hosts write it down; None if the URL is of another kind."""
    found = _URL.fullmatch(url)
    scheme = found.group(1).lower() if found else ""
    if found is None or scheme not in _WEB_SCHEMES:
        return None
    if named is not None and named != scheme:
        wanted = _WEB_TYPES.get(named, {})
        if scheme not in wanted:
            raise ConfigurationError(f"the endpoint is of {scheme}, but {named} was asked for")
        scheme = wanted[scheme]
    target, question, query = found.group(2).partition("?")
    _need_slashes(scheme, target)
    if question:
        if "url_query" in options:
            raise ConfigurationError("url_query is given twice")
        options["url_query"] = query
    return scheme, target, options


def _need_slashes(scheme: str, rest: str) -> None:
    # Without a target the parameters would have to have it all.
    if scheme in _WEB_SCHEMES and not rest.startswith("//"):
        raise ConfigurationError(f"{scheme}://HOST:PORT/PATH needs its two slashes")


def _in_family(scheme: str, wanted: str | None) -> str:
    """The scheme, if it is what was asked for, by its own name or its family's."""
    if wanted is None or scheme not in _FAMILIES.get(wanted, ()):
        _agree(scheme, wanted)
    return scheme


def _pick_server(servers: object, name: str | None) -> Mapping[str, object]:
    if not isinstance(servers, Mapping) or not servers:
        raise ConfigurationError("mcpServers must be an object with at least one entry")
    names = ", ".join(map(str, servers))
    if name is None:
        if len(servers) != 1:
            raise ConfigurationError(f"mcpServers has several entries, name one of: {names}")
        (name,) = servers
    if name not in servers:
        raise ConfigurationError(f"mcpServers has no entry {name!r}, only: {names}")
    entry = servers[name]
    if not isinstance(entry, Mapping) or "mcpServers" in entry:
        raise ConfigurationError(f"the entry {name!r} of mcpServers must be that of one server")
    return entry


def _process_fields(parameters: dict[str, object]) -> dict[str, object]:
    """Bring the keys of ``mcpServers`` to the fields of a `ProcessEndpoint`."""
    for theirs, ours in (("env", "environment_vars"), ("cwd", "working_directory")):
        if theirs in parameters:
            if ours in parameters:
                raise ConfigurationError(f"{ours} is given twice, once as {theirs}")
            parameters[ours] = parameters.pop(theirs)
    arguments = parameters.pop("args", [])
    if not _are_texts(arguments):
        raise ConfigurationError("args must be a list of strings")
    if "command" in parameters:
        command = parameters["command"]
        if isinstance(command, str):
            command = [command]  # one program, blanks in its path and all
        if not _are_texts(command):
            raise ConfigurationError("command must be a string or a list of strings")
        parameters["command"] = (*command, *arguments)
    elif arguments:
        raise ConfigurationError("args needs a command")
    return parameters


def _are_texts(value: object) -> TypeGuard[Sequence[str]]:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _pop_text(parameters: dict[str, object], key: str) -> str | None:
    value = parameters.pop(key, None)
    if value is not None and not isinstance(value, str):
        raise ConfigurationError(f"{key} must be a string")
    return value


def _agree(scheme: str, wanted: str | None) -> None:
    if wanted is not None and scheme != wanted:
        raise ConfigurationError(f"the endpoint is of {scheme}, but {wanted} was asked for")


def _no_name(name: str | None) -> None:
    if name is not None:
        raise ConfigurationError("name is only for mcpServers, to pick one of its entries")
