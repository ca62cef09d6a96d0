"""The helper process that ends a child's process group when this process is killed.

Used by `child` for ``supervise=true``. SIGKILL leaves a parent no time for anything, but
the kernel closes its pipes. So a shell of a few lines waits in a session of its own for the
end of a pipe that only this process writes to; when that comes, it sends the group
SIGTERM, gives it two seconds, and sends SIGKILL. While this process lives it ends the child
itself, and then the helper.

The helper runs nothing but the shell (and ``sleep``), opens no file, and has no
descriptor but its end of the pipe: it cannot hold anything open.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from ..errors import FeatureUnavailable

__all__ = ["Supervisor"]

_SHELL = "/bin/sh"
#: An empty first line means that there never was a child. Whether the group still has
#: members is asked before each signal: its number may be given to others once it has none.
_SCRIPT = """\
read -r group || exit 0
read -r ended
kill -s TERM -- "-$group" || exit 0
for pause in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    sleep 0.1
    kill -s 0 -- "-$group" || exit 0
done
kill -s KILL -- "-$group"
"""


class Supervisor:
    """A started helper. Blocking, but only for as long as a process takes to start or die.

    Raises:
        FeatureUnavailable: This system has no POSIX shell.
        OSError: There are too many processes or open files.
    """

    def __init__(self) -> None:
        if sys.platform == "win32" or not Path(_SHELL).exists():
            raise FeatureUnavailable(f"supervise needs a POSIX system with {_SHELL}")
        read_end, self._pipe = os.pipe()
        try:
            self._process = subprocess.Popen(
                [_SHELL, "-c", _SCRIPT],
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.defpath},
                start_new_session=True,
            )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(read_end)

    @property
    def pid(self) -> int:
        """The helper's process id."""
        return self._process.pid

    def watch(self, group: int) -> None:
        """Name the process group that ends with this process."""
        with suppress(BrokenPipeError):  # somebody has killed the helper
            os.write(self._pipe, b"%d\n" % group)

    def stop(self) -> None:
        """End the helper, which then kills nobody, and reap it. Idempotent."""
        if self._pipe < 0:
            return
        # It must be dead before its pipe ends, else it would take that for our death.
        self._process.kill()
        self._process.wait()
        os.close(self._pipe)
        self._pipe = -1
