"""Each check of `conftest.py` can fail, and none of them fails an innocent test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.project

CONFTEST = Path(__file__).with_name("conftest.py").read_text()


def run(pytester: pytest.Pytester, files: dict[str, str]) -> pytest.RunResult:
    """Run small test files under our conftest, in a process of its own."""
    pytester.makeconftest(CONFTEST)
    pytester.makeini("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    pytester.makepyfile(**files)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-rA")


LEAKS = {
    "descriptor": """
        import os
        def test(): os.pipe()
        """,
    "standard stream exchanged": """
        import os
        def test(tmp_path):
            fd = os.open(tmp_path / "other", os.O_CREAT | os.O_RDONLY)
            os.dup2(fd, 0)
            os.close(fd)
        """,
    "standard stream gone": """
        import os  # files run in the order of their names: this one after the exchanged one
        def test(): os.close(0)
        """,
    "flags of a standard stream": """
        import os
        def test(): os.set_blocking(0, False)
        """,
    "child": """
        import subprocess
        keep = []
        def test(): keep.append(subprocess.Popen(["sleep", "5"]))
        """,
    "zombie": """
        import os
        def test():
            if (pid := os.fork()) == 0:
                os._exit(0)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        """,
    "thread": """
        import threading
        def test(): threading.Thread(target=threading.Event().wait, args=[9], daemon=True).start()
        """,
    "busy Trio worker": """
        import threading, trio
        async def test():
            with trio.move_on_after(0.01):
                await trio.to_thread.run_sync(threading.Event().wait, 9, abandon_on_cancel=True)
        """,
    "socket file": """
        import socket
        def test(tmp_path):
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(tmp_path / "s"))
        """,
    "unclosed file": """
        def test(tmp_path): open(tmp_path / "f", "w")
        """,
    "unclosed socket in a cycle": """
        import socket
        def test():
            cycle = [socket.socket()]
            cycle.append(cycle)
        """,
}


def test_a_test_that_leaves_something_behind_fails(pytester: pytest.Pytester) -> None:
    files = {"test_" + name.replace(" ", "_"): body for name, body in LEAKS.items()}
    report = run(pytester, files).stdout.str()
    failed = set(re.findall(r"^(?:ERROR|FAILED) (test_\w+)\.py", report, re.MULTILINE))
    assert failed == files.keys()


def test_a_tidy_test_passes(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        {
            "test_tidy": """
        import pathlib, socket, subprocess, threading
        import trio
        from hypothesis import given, strategies as st

        async def test_trio(tmp_path):
            await trio.to_thread.run_sync(lambda: None)
            await trio.run_process(["true"])
            async with await trio.open_file(tmp_path / "f", "w") as file:
                await file.write("x")
            left, right = trio.socket.socketpair()
            left.close()
            right.close()

        def test_thread(capfd, tmp_path):
            thread = threading.Thread(target=print, args=["x"])
            thread.start()
            thread.join()
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(tmp_path / "s"))
            (tmp_path / "s").unlink()

        @given(st.integers())
        def test_properties(number):
            assert number + 1 > number

        @given(st.integers())
        async def test_trio_properties(number):
            await trio.lowlevel.checkpoint()
        """
        },
    )
    assert result.parseoutcomes() == {"passed": 4}
