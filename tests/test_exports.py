"""The public face: complete, without doubles, documented, typed and shipped."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
import types
import typing
from importlib import metadata, resources
from pathlib import Path

import pytest

import trio_mcp_transport
from trio_mcp_transport.errors import TransportError

pytestmark = pytest.mark.project

ROOT = Path(__file__).parents[1]
PACKAGE = "trio_mcp_transport"

#: Where programs import from. Each public name is in exactly one of them.
FACES = [
    PACKAGE,
    f"{PACKAGE}.sansio",
    f"{PACKAGE}.sansio.http",
    f"{PACKAGE}.sansio.tls",
    f"{PACKAGE}.sansio.websocket",
    f"{PACKAGE}.security",
    f"{PACKAGE}.stores",
    f"{PACKAGE}.testing",
]
#: Modules whose every public name is in the top face.
SHARED = ["abc", "connect", "errors", "installation", "jsonrpc"]
#: What extras bring: modules that need them cannot be imported without.
EXTRA_MODULES = {"OpenSSL", "anyio", "cryptography", "mcp", "mcp_types", "rich"}


def names_of(module: str) -> list[str]:
    names: list[str] = importlib.import_module(module).__all__
    return names


def all_modules() -> list[str]:
    return [
        found.name
        for found in pkgutil.walk_packages([str(ROOT / PACKAGE)], f"{PACKAGE}.")
        if not found.name.endswith("__main__") and not found.name.startswith(f"{PACKAGE}.interop.")
    ]


@pytest.mark.parametrize("face", FACES)
def test_a_face_lists_exactly_what_it_offers(face: str) -> None:
    module = importlib.import_module(face)
    for name in names_of(face):
        getattr(module, name)  # some are imported when they are asked for
    offered = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    offered -= {"annotations"}
    assert set(names_of(face)) - {"__version__"} == offered


def test_what_is_imported_when_it_is_asked_for_is_listed_and_is_what_it_should_be() -> None:
    code = """
import sys
from trio_mcp_transport import security
assert "TlsClient" in dir(security) and "__name__" in dir(security)
assert "TlsClient" not in vars(security)
assert not any(name.endswith(("tls_contexts", "admission")) for name in sys.modules)
from trio_mcp_transport.security import *
assert TlsClient is security.TlsClient is vars(security)["TlsClient"]
assert TlsClient is sys.modules["trio_mcp_transport.security.tls_contexts"].TlsClient
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_a_face_lacks_is_named() -> None:
    with pytest.raises(AttributeError, match=r"'trio_mcp_transport.security'.*'Tls'"):
        getattr(trio_mcp_transport.security, "Tls")  # noqa: B009 (mypy knows it too)


@pytest.mark.parametrize("face", FACES)
def test_the_list_of_a_face_has_no_doubles(face: str) -> None:
    assert len(set(names_of(face))) == len(names_of(face)) > 0


def test_each_public_name_is_in_exactly_one_face() -> None:
    seen: dict[str, str] = {}
    for face in FACES:
        for name in names_of(face):
            assert name not in seen, f"{name} is in {face} and {seen.get(name)}"
            seen[name] = face


@pytest.mark.parametrize("module", SHARED)
def test_all_of_a_shared_module_is_in_the_top_face(module: str) -> None:
    assert set(names_of(f"{PACKAGE}.{module}")) - set(trio_mcp_transport.__all__) == set()


@pytest.mark.parametrize("module", all_modules())
def test_what_a_module_lists_is_there(module: str) -> None:
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in EXTRA_MODULES:
            raise
        pytest.skip(f"{error.name} is not installed")
    for name in getattr(imported, "__all__", []):
        assert hasattr(imported, name), name


@pytest.mark.parametrize("face", FACES)
def test_exceptions_and_functions_name_their_face(face: str) -> None:
    module = importlib.import_module(face)
    for name in names_of(face):
        value = getattr(module, name)
        is_exception = isinstance(value, type) and issubclass(value, BaseException)
        if is_exception or isinstance(value, types.FunctionType):
            assert value.__module__ == face, name


@pytest.mark.parametrize("face", FACES)
def test_annotations_can_be_resolved(face: str) -> None:
    module = importlib.import_module(face)
    for name in names_of(face):
        value = getattr(module, name)
        if isinstance(value, type | types.FunctionType):
            typing.get_type_hints(value)


@pytest.mark.parametrize("face", FACES)
def test_every_public_name_is_in_the_reference(face: str) -> None:
    pages = "\n".join(
        page.read_text() for page in sorted((ROOT / "docs" / "reference").rglob("*.rst"))
    )
    documented = set(re.findall(r"^\s*\.\. auto\w+:: +(?:[\w.]*\.)?(\w+)", pages, re.MULTILINE))
    documented |= set(re.findall(r"^\s*\.\. py:\w+:: +(?:[\w.]*\.)?(\w+)", pages, re.MULTILINE))
    assert set(names_of(face)) - {"__version__"} - documented == set()


def test_the_version_has_one_source() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert metadata.version("trio-mcp-transport") == trio_mcp_transport.__version__


def test_the_type_marker_is_shipped() -> None:
    assert resources.files(PACKAGE).joinpath("py.typed").is_file()
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["packages"] == [PACKAGE]


def test_the_oldest_environment_has_the_lower_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    bounds = {
        tuple(requirement.split(">="))
        for name in ("cli", "compression", "httpx", "mcp", "speedups", "tls")
        for requirement in [*project["dependencies"], *extras[name]]
    }
    section = (ROOT / "tox.ini").read_text().split("[testenv:oldest]")[1].split("commands")[0]
    pinned = dict(re.findall(r"^ +([\w.-]+)==([\w.]+)$", section, re.MULTILINE))
    assert pinned.keys() == {name for name, _ in bounds}
    for name, bound in bounds:
        assert pinned[name].startswith(bound), name


def test_every_public_exception_but_the_one_that_is_no_failure_is_a_transport_error() -> None:
    public = [getattr(trio_mcp_transport, name) for name in trio_mcp_transport.__all__]
    exceptions = [
        value for value in public if isinstance(value, type) and issubclass(value, BaseException)
    ]
    assert len(exceptions) > 20
    others = [error for error in exceptions if not issubclass(error, TransportError)]
    assert others == [trio_mcp_transport.InputRequired]
