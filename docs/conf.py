"""How the pages are built: ``sphinx-build -W -n docs docs/_build``."""

from __future__ import annotations

import sys

import trio_mcp_transport

project = "trio-mcp-transport"
release = version = trio_mcp_transport.__version__
copyright = "the trio-mcp-transport contributors"  # ruff: ignore[builtin-variable-shadowing]

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
nitpicky = True
# In docstrings, `name` is code; links are written out.
default_role = "code"
highlight_language = "python"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "alabaster"
html_theme_options = {
    "description": trio_mcp_transport.__doc__.split("\n")[0],
    "page_width": "66em",
}

FACES = (
    "trio_mcp_transport",
    "trio_mcp_transport.sansio",
    "trio_mcp_transport.sansio.http",
    "trio_mcp_transport.security",
    "trio_mcp_transport.stores",
    "trio_mcp_transport.testing",
    "trio_mcp_transport.interop.asgi",
    "trio_mcp_transport.interop.mcp_sdk",
)

# Other people's names: nothing is fetched while building, so they are not linked.
nitpick_ignore_regex = [
    (r"py:.*", r"(trio|msgspec|socket|contextlib)\..*"),
    (
        r"py:.*",
        r"(collections|typing|types|enum|abc|os|mcp|mcp_types|anyio|x509|ec|SSL|trio_websocket)\..*",
    ),
    (r"py:.*", r"(Raw|UnsetType|Struct|Self|Ts|StateT|.*\.StateT|.*\.Receiving)"),
    (r"py:.*", r"(.*\.)?_?[A-Z]"),  # type variables
    # What a machine keeps inside; and shapes of other people's objects.
    (r"py:.*", r"trio_mcp_transport\.sansio\.mcp_http\..*"),
    (r"py:.*", r"(.*\.)?(AcceptLoop|AsyncHttpClient|MCPServer|Server|ResponseMode)"),
    (r"py:.*", r"dict\[str"),  # a default of {} cuts the annotation in two
]


def _resolve_by_face(app, env, node, contnode):
    """Link a name by the module that defines it to the page of the face that offers it."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target:
        return None
    domain = env.get_domain("py")
    last = target.rsplit(".", 1)[-1]
    for face in FACES:
        known = f"{face}.{last}"
        if known in domain.objects and target in {last, known} | {
            f"{module}.{last}" for module in _modules_of(last)
        }:
            return domain.resolve_xref(
                env, node["refdoc"], app.builder, "obj", known, node, contnode
            )
    return None


def _modules_of(name: str) -> set[str]:
    """The modules of this package that list a name."""
    return {
        module_name
        for module_name, module in list(sys.modules.items())
        if module_name.startswith("trio_mcp_transport") and name in getattr(module, "__all__", ())
    }


class _PlainText:
    """Keeps napoleon from reading "One write: 64 KiB" as a type and its meaning."""

    def keep(self, app, what, name, obj, options, lines) -> None:
        self.kept = list(lines)

    def restore(self, app, what, name, obj, options, lines) -> None:
        if what in {"attribute", "data", "property"}:
            lines[:] = self.kept


def setup(app) -> None:
    app.connect("missing-reference", _resolve_by_face)
    plain = _PlainText()  # napoleon has the priority between
    app.connect("autodoc-process-docstring", plain.keep, priority=400)
    app.connect("autodoc-process-docstring", plain.restore, priority=600)
