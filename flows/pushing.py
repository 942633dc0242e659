"""What the workspace, and commits before it, name -> DVC's remote: `dvc push --run-cache`.

    python -m flows.pushing [<commit> ...]

The command line of DVC cannot name single commits, and a night that could not be pushed is not
what the workspace holds any more. Exit codes: 0 pushed, 2 it is not said whereto, 3 there is no
remote, 1 it failed. The last line says what happened.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dvc.exceptions import DvcException
from dvc.repo import Repo

from flows.keeping import NO_REMOTE


def main(commits: Sequence[str]) -> int:
    """Push; the exit code."""
    repo = Repo(_wait_for_lock=True)
    remotes = sorted(repo.config["remote"])
    if not remotes:
        return _end(NO_REMOTE, "DVC has no remote: data and models are on this machine only")
    name = repo.config["core"].get("remote") or (remotes[0] if len(remotes) == 1 else None)
    if name is None:
        told = f"remotes {', '.join(remotes)}: say which, `dvc remote default <name>`"
        return _end(2, told)
    # named as an argument, the remote would be forgotten after the first commit
    repo = Repo(_wait_for_lock=True, config={"core": {"remote": name}})
    try:
        count = repo.push(revs=list(commits) or None, run_cache=True)
    except (DvcException, OSError) as error:
        return _end(1, f"remote {name!r}: {error}")
    return _end(0, f"{count} files pushed to {name!r}")


def _end(code: int, told: str) -> int:
    sys.stderr.write(f"\n{' '.join(told.split())}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
