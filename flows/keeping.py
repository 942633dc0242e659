"""What a run made -> a commit of its record, and its data in DVC's remote.

The record is dvc.lock, promotions.jsonl and the raw/<dataset>.dvc that runs brought up to date.
Nothing else is committed, staged or changed, whatever state the tree is in.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from flows import graph, services
from isdh.artifacts import Workspace, read_json, sha256, write_json
from isdh.errors import InputError
from isdh.params import Params

RECORDS = ("dvc.lock", "promotions.jsonl")
UNDER_WAY = {  # a file of git's folder -> what goes on while it is there
    "MERGE_HEAD": "merge",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
    "BISECT_LOG": "bisect",
}
WAITS = (1.0, 2.0, 4.0)  # seconds, for whoever holds git's index
# Hooks are for what a person commits: the tool pre-commit would set aside what is not staged.
PLAINLY = (
    *("--no-optional-locks", "--literal-pathspecs"),
    *("-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false"),
)
NO_REMOTE = 3  # the exit code of flows/pushing.py


class PushError(RuntimeError):
    """Data did not get to the remote; a later try may bring it there."""


def refuse_conflicts(root: Path) -> None:
    """Refuse a dvc.lock that DVC could not read, before anything is run.

    Raises:
        InputError: conflict markers of git, or no YAML, and what to do.
    """
    path = root / "dvc.lock"
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(("<<<<<<< ", ">>>>>>> ")):
            raise InputError(
                f"dvc.lock, line {number}: a conflict that git left; take either side "
                "(`git checkout --ours dvc.lock`, or --theirs) and `git add` it: "
                "the next run makes what that side does not have"
            )
    try:
        found = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise InputError(
            f"dvc.lock: {error}; `git checkout dvc.lock` brings the last one back"
        ) from None
    if text and not isinstance(found, Mapping):
        raise InputError("dvc.lock: not what DVC wrote; `git checkout dvc.lock` brings that back")


class Sources:
    """Which raw/<dataset>.dvc runs of the pipeline brought up to date, and not a person.

    A file below .isdh/ remembers them until they are committed, so that a run that fails or is
    killed leaves them to the next.

    Args:
        workspace: whose.
        settings: which datasets.
    """

    def __init__(self, workspace: Workspace, settings: Params) -> None:
        self.root = workspace.root
        self.file = workspace.state("sources.json")
        self.names = sorted({f"{Path(folder)}.dvc" for folder in settings.datasets.values()})

    def begin(self) -> None:
        """Note how they are before a run; one that was killed is taken to its end first."""
        self.end()
        write_json(self.file, {**self._read(), "before": self._now()})

    def end(self) -> None:
        """Note which of them the run has changed."""
        note, now = self._read(), self._now()
        if "before" in note:
            made = {
                name: digest for name, digest in now.items() if note["before"].get(name) != digest
            }
            write_json(self.file, {"made": {**note.get("made", {}), **made}})

    def made(self) -> list[str]:
        """Those that are as a run left them."""
        now = self._now()
        return [n for n, digest in self._read().get("made", {}).items() if now.get(n) == digest]

    def forget(self) -> None:
        """They are committed."""
        self.file.unlink(missing_ok=True)

    def _now(self) -> dict[str, str]:
        paths = {name: self.root / name for name in self.names if not Path(name).is_absolute()}
        return {name: sha256(path) for name, path in paths.items() if path.exists()}

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            return read_json(self.file)
        except InputError:
            return {}


class Repository:
    """The git repository that a workspace lies in.

    Args:
        root: the workspace's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def absent(self) -> str:
        """Why there is nothing to commit to; empty where there is.

        Raises:
            InputError: git refuses to look.
        """
        try:
            code, told = self._try("rev-parse", "--git-dir")
        except FileNotFoundError:
            return "git is not installed"
        if code and "not a git repository" in told:
            return "this is no git repository"
        if code:
            raise InputError(f"not committed: {told}")
        if self._try("rev-parse", "--verify", "--quiet", "HEAD")[0]:
            return "git has no commit yet: commit the project once, then runs commit what they made"
        return ""

    def changed(self, *paths: str) -> list[str]:
        """Files below the workspace that are other than in the last commit, or not in it.

        Args:
            *paths: among these; all if none are named.
        """
        prefix = self._ask("rev-parse", "--show-prefix").strip()
        words = ("status", "--porcelain", "-z", "--no-renames", "-uall", "--", *(paths or "."))
        names = [entry[3:] for entry in self._ask(*words).split("\0") if entry]
        return sorted({name.removeprefix(prefix) for name in names})

    def commit(self, paths: Sequence[str], message: str) -> str:
        """Commit these files as they are on disk, and leave the index otherwise as it is.

        Hooks are not run and nothing is signed: nobody is there to answer.

        Returns:
            The commit.

        Raises:
            InputError: what keeps git from it, and what to do; nothing has changed.
        """
        self._refuse_if_under_way()
        known = self._ask("ls-files", "-z", "--", *paths).split("\0")
        new = [path for path in paths if path not in known]
        if new:
            self._retry("add", "--intent-to-add", "--", *new)
        try:
            words = ("commit", "--quiet", "--only", "--cleanup=whitespace", "--file=-")
            self._retry(*words, "--", *paths, given=message)
        except InputError:
            if new:
                self._try("reset", "--quiet", "--", *new)
            raise
        return self._ask("rev-parse", "HEAD").strip()

    def known(self, commits: Sequence[str]) -> list[str]:
        """Those that are still there: a person may have rewritten the branch."""
        return [one for one in commits if not self._try("cat-file", "-e", f"{one}^{{commit}}")[0]]

    def _refuse_if_under_way(self) -> None:
        folder = self.root / self._ask("rev-parse", "--git-dir").strip()
        for name, what in UNDER_WAY.items():
            if (folder / name).exists():
                raise InputError(
                    f"not committed: a {what} is in progress; bring it to its end "
                    f"(`git status` says how), the next run commits"
                )
        if self._try("symbolic-ref", "--quiet", "HEAD")[0]:
            raise InputError(
                "not committed: HEAD is on no branch, where a commit is soon lost; `git switch` "
                "to one (or `git switch -c <new>`), the next run commits"
            )
        if self._try("var", "GIT_AUTHOR_IDENT")[0] or self._try("var", "GIT_COMMITTER_IDENT")[0]:
            raise InputError(
                "not committed: git does not know who commits here; `git config user.name <name>` "
                "and `git config user.email <address>`, the next run commits"
            )

    def _retry(self, *words: str, given: str = "") -> None:
        for seconds in (*WAITS, None):
            code, told = self._try(*words, given=given)
            if not code:
                return
            if "index.lock" not in told or seconds is None:
                break
            time.sleep(seconds)
        raise InputError(f"not committed: {told}")

    def _ask(self, *words: str) -> str:
        code, told = self._try(*words)
        if code:
            raise InputError(f"not committed: {told}")
        return told

    def _try(self, *words: str, given: str = "") -> tuple[int, str]:
        """Run git: its code, and what it says."""
        done = subprocess.run(
            ["git", "-C", str(self.root), *PLAINLY, *words],
            env={**os.environ, "LC_ALL": "C"},  # its words are read
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr.strip() if done.returncode else done.stdout


class Unpushed:
    """The commits whose data is not in the remote yet: a file below .isdh/."""

    def __init__(self, workspace: Workspace) -> None:
        self.file = workspace.state("unpushed.json")

    def commits(self) -> list[str]:
        """Oldest first."""
        try:
            return list(read_json(self.file)["commits"])
        except InputError:
            return []

    def add(self, commit: str) -> None:
        """Remember one until it is pushed."""
        write_json(self.file, {"commits": [*self.commits(), commit]})

    def forget(self) -> None:
        """All are pushed, or there is nowhere to push to."""
        self.file.unlink(missing_ok=True)


async def push(workspace: Workspace) -> str:
    """Bring to DVC's remote what the workspace and the commits not pushed yet name.

    Returns:
        What was done, in words.

    Raises:
        InputError: several remotes, and none is said to be the one.
        PushError: it failed; everything stays here, and the next push has it too.
    """
    waiting = Unpushed(workspace)
    commits = Repository(workspace.root).known(waiting.commits()) if waiting.commits() else []
    log = workspace.state("logs", "push.log")
    command = services.tied("-m", "flows.pushing", *commits)
    code = await graph.code_of(command, log, dict(os.environ))
    told = services.tail(log, lines=1).partition("\n")[2]
    if code == 2:
        raise InputError(f"not pushed: {told}")
    if code not in {0, NO_REMOTE}:
        raise PushError(
            f"not pushed: {told}\nEverything is here all the same, and the next scheduled run "
            f"pushes it too; by hand `dvc push --run-cache`. What DVC said: {log}"
        )
    waiting.forget()
    return told
