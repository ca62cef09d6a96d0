"""Check that the installed distributions are exactly the lower bounds of pyproject.toml.

Run by `tox -e oldest`: without it, a resolver that moved one of them up would make the
environment prove nothing.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
requirements = [
    *project["dependencies"],
    *extras["cli"],
    *extras["compression"],
    *extras["mcp"],
    *extras["speedups"],
    *extras["tls"],
]

wrong = []
for requirement in requirements:
    name, bound = re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement).groups()
    installed = metadata.version(name)
    width = max(len(bound.split(".")), len(installed.split(".")))
    expected = (bound.split(".") + ["0"] * width)[:width]
    if installed.split(".") != expected:
        wrong.append(f"{name}: {installed} is installed, the lower bound is {bound}")
sys.exit("\n".join(wrong) or None)
