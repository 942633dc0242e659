"""Run a command that ends when its parent does: `python flows/tied.py [-KILL] COMMAND ...`.

Without it `kill -9` of a parent leaves servers behind that nobody stops. The kernel sends the
signal (Linux, PR_SET_PDEATHSIG of prctl(2)), SIGTERM or what is named; elsewhere the command runs
untied. Standard library only: it is started by its path, from wherever.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def tie(parent: int, by: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel end this process when its parent, whose process id that is, ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:  # it died before the kernel knew
        sys.exit(1)


def main(command: list[str]) -> None:
    """Become the command."""
    if command[0] == "-KILL":
        tie(os.getppid(), signal.SIGKILL)
        command = command[1:]
    else:
        tie(os.getppid())
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
