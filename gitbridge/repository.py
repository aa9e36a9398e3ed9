"""One Git repository: where its parts lie, what it is configured to do, and git itself to ask.

Git's own plumbing does the work (pygit2 cannot open sha256 repositories and takes 80 ms to import). The
common cases of discovery are done without running git, since the filter starts for every git command;
whatever looks unusual (GIT_DIR with a core.worktree, ceilings) is git's to answer.

Configuration comes from one `git config -z --list`, so that includes, scopes, `git -c` and the user's own
files count exactly as they do for git.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from gitbridge.errors import ConfigError, GitError, RepositoryMissingError
from gitbridge.excludes import exclude_directory
from thetastore.errors import StoreMissingError

if TYPE_CHECKING:
    from gitbridge.cat_file import CatFile, GitObject
    from thetastore.store import Store

# What `git rev-parse --local-env-vars` lists (2.39): it describes one repository and must not leak into another.
LOCAL_VARIABLES = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CONFIG",
    "GIT_CONFIG_PARAMETERS",
    "GIT_CONFIG_COUNT",
    "GIT_OBJECT_DIRECTORY",
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_GRAFT_FILE",
    "GIT_INDEX_FILE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_REPLACE_REF_BASE",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_COMMON_DIR",
    "GIT_INTERNAL_SUPER_PREFIX",
)


class Repository:
    """A repository on this machine. Cheap to make; for one thread."""

    def __init__(self, git_dir: str, work_tree: str | None, environment: dict[str, str] | None = None) -> None:
        self.git_dir = os.path.abspath(git_dir)
        """Absolute path of this work tree's git directory (`.git`, or `.git/worktrees/<name>`)."""
        self.common_dir = _common_dir(self.git_dir, environment or os.environ)
        """Absolute path of what all work trees share."""
        self.work_tree = None if work_tree is None else os.path.abspath(work_tree)
        """Absolute path of the work tree's top; None in a bare repository or inside of a git directory."""
        self.environment = environment
        """Environment for git when it is asked about this repository; None for our own."""
        self._config: dict[str, list[str]] | None = None
        self._cat_file: CatFile | None = None
        self._object_format = ""

    # Finding it

    @classmethod
    def discover(cls, start: str = ".") -> Repository:
        """Find the repository that git would work on if it were run in `start`.

        Raises:
            RepositoryMissingError: there is none.
        """
        environment = os.environ
        if "GIT_DIR" in environment:
            git_dir = os.path.join(start, environment["GIT_DIR"])
            return cls(git_dir, _work_tree_beside(start, git_dir), _pinned_environment(start, git_dir))
        if "GIT_WORK_TREE" in environment or "GIT_CEILING_DIRECTORIES" in environment:
            return _ask_git(start)
        found = _walk_up(os.path.abspath(start))
        if found is None:
            return _ask_git(start)
        return cls(*found)

    @classmethod
    def at(cls, path: str) -> Repository:
        """Open another repository: a work tree's top, or a git directory, whatever our own environment says.

        Raises:
            RepositoryMissingError: there is none at this very place.
        """
        environment = {name: value for name, value in os.environ.items() if name not in LOCAL_VARIABLES}
        for candidate in (os.path.join(path, ".git"), path, path + ".git"):
            git_dir = _read_git_file(candidate) if os.path.isfile(candidate) else candidate
            if git_dir and _is_git_dir(git_dir):
                beside = path if candidate.endswith("/.git") else None
                return cls(git_dir, beside, environment)
        raise RepositoryMissingError(f"there is no Git repository at '{path}'")

    @property
    def root(self) -> str:
        """Directory that relative paths in our settings count from; the same for all work trees."""
        if os.path.basename(self.common_dir) == ".git":
            return os.path.dirname(self.common_dir)
        if self.work_tree is not None and self.git_dir == self.common_dir:
            return self.work_tree
        return self.common_dir

    @property
    def index_path(self) -> str:
        """The index that git would read now (GIT_INDEX_FILE during `git commit -a`)."""
        name = (self.environment or os.environ).get("GIT_INDEX_FILE")
        if name:
            return os.path.join(self.work_tree or self.git_dir, name)
        return os.path.join(self.git_dir, "index")

    @property
    def object_format(self) -> str:
        """`sha1` or `sha256`: how this repository names its objects."""
        if not self._object_format:
            self._object_format = "sha1"
            if b"objectformat" in _read_config_file(self.common_dir).lower():
                self._object_format = (self.config("extensions.objectformat") or "sha1").lower()
        return self._object_format

    @property
    def theta_dir(self) -> str:
        """Our own directory in this work tree's git directory: journals and logs, never weights."""
        return os.path.join(self.git_dir, "theta")

    # Asking git

    def git(self, *args: str, input: bytes | None = None, check: bool = True, cwd: str | None = None) -> bytes:
        """Run git at the top of the work tree (or in `cwd`) and return its standard output.

        Args:
            *args: after `git`.
            input: for its standard input; None gives it an empty one.
            check: False returns the output whatever the exit status.
            cwd: directory to run in.

        Raises:
            GitError: it failed; the message holds its own words.
        """
        import subprocess

        done = subprocess.run(
            ["git", *args],
            input=input if input is not None else b"",
            capture_output=True,
            cwd=cwd or self.work_tree or self.git_dir,
            env=self.environment,
            check=False,
        )
        if check and done.returncode:
            words = done.stderr.decode("utf-8", "replace").strip().removeprefix("fatal: ")
            command = next((arg for arg in args if not arg.startswith("-")), "")
            raise GitError(f"'git {command}' failed with status {done.returncode}: {words or 'it says nothing'}")
        return done.stdout

    def head_oid(self) -> str | None:
        """Return the commit that HEAD is at; None before the first one of a branch."""
        return self.git("rev-parse", "--verify", "--quiet", "HEAD", check=False).decode().strip() or None

    def read_object(self, oid: str) -> bytes:
        """Return the content of a Git object by oid (or any name that git resolves).

        Raises:
            RevisionError: there is no such object.
        """
        return self.cat_file().read(oid).content

    def read_objects(self, oids: Iterable[str]) -> Iterator[GitObject]:
        """Yield `(oid, type, content)` in the order asked for; a consumer may stop early."""
        return self.cat_file().read_all(oids)

    def cat_file(self) -> CatFile:
        """Return the persistent reader of Git objects, started at first use."""
        if self._cat_file is None:
            import subprocess

            from gitbridge.cat_file import CatFile

            self._cat_file = CatFile(
                subprocess.Popen(
                    ["git", "cat-file", "--batch"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    cwd=self.work_tree or self.git_dir,
                    env=self.environment,
                )
            )
        return self._cat_file

    def close(self) -> None:
        """End what this object started; it may be used again."""
        if self._cat_file is not None:
            self._cat_file.close()
            self._cat_file = None

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Configuration

    def config_all(self, name: str) -> list[str]:
        """Return every value of a setting, the one that counts last."""
        if self._config is None:
            self._config = parse_config(self.git("config", "-z", "--list"))
        return self._config.get(canonical_name(name), [])

    def config(self, name: str) -> str | None:
        """Return a setting as git would, or None where it is not set."""
        values = self.config_all(name)
        return values[-1] if values else None

    def config_names(self) -> list[str]:
        """Return the names of all settings, as git lists them."""
        self.config_all("")
        return list(self._config or ())

    def config_bool(self, name: str, default: bool) -> bool:
        """Return a setting as a truth value, spelled as git allows.

        Raises:
            ConfigError: it is spelled in another way.
        """
        value = self.config(name)
        if value is None:
            return default
        word = value.lower()
        if word in ("true", "yes", "on", "1"):
            return True
        if word in ("false", "no", "off", "0", ""):
            return False
        raise ConfigError(f"'{name}' is '{value}', expected true or false", f"git config {name} true")

    def config_path(self, name: str) -> str | None:
        """Return a setting as a path, `~` expanded; relative ones count from `root`."""
        value = self.config(name)
        return None if not value else os.path.normpath(os.path.join(self.root, os.path.expanduser(value)))

    def forget_config(self) -> None:
        """Read the configuration again when it is next asked for."""
        self._config = None

    # Stores

    def store_path(self) -> str:
        """Return where the local store lies: `theta.storage`, else `theta` in the common git directory."""
        return self.config_path("theta.storage") or os.path.join(self.common_dir, "theta")

    def open_store(self, create: bool = True) -> Store:
        """Open the local store.

        Raises:
            StoreMissingError: there is none and `create` is False.
            ConfigError: it cannot be opened or made.
        """
        from thetastore.store import Store

        path = self.store_path()
        if create and not os.path.exists(path):
            exclude_directory(self.common_dir, self.root, path)
        try:
            store = Store.open(path, create=create, is_shared=create and self._is_shared())
            if create:
                self._register_in(store)
            return store
        except StoreMissingError:
            raise
        except OSError as error:
            raise ConfigError(
                f"the local store '{path}' cannot be opened: {error.strerror or error}",
                "mend that, or have another directory: git config theta.storage /path/to/directory",
            ) from error

    def _is_shared(self) -> bool:
        """Tell whether git lets the group write to what it makes here: `core.sharedRepository`."""
        word = (self.config("core.sharedRepository") or "").lower()
        is_mode = len(word) > 1 and set(word) <= set("01234567")
        return bool(int(word, 8) & 0o020) if is_mode else word in _SHARED_WORDS

    def _register_in(self, store: Store) -> None:
        """Leave word in the local store that this repository's history says what it has to keep.

        It costs a look at one file. Who registers and who deletes by it: `gitbridge.registry`.
        """
        from thetastore.digest import digest_of

        git_dir = os.fsencode(os.path.realpath(self.common_dir))
        name = f"repositories/{digest_of(git_dir).hex()[:32]}.json"
        try:
            store.backend.size(name)
        except FileNotFoundError:
            text = f'{{"format": "theta-repository", "version": 1, "git_dir_hex": "{git_dir.hex()}"}}\n'
            try:
                store.backend.create(name, text.encode(), durable=False)
            except FileExistsError:
                pass

    def remote_store_url(self, remote: str | None, treeish: str | None = None) -> str | None:
        """Return where the remote store of a Git remote lies, or None (see `gitbridge.remotes`)."""
        from gitbridge.remotes import remote_store_url

        return remote_store_url(self, remote, treeish)

    def open_remote_store(self, remote: str | None, create: bool = False, treeish: str | None = None) -> Store | None:
        """Open the remote store of a Git remote, or return None where no URL is known.

        Raises:
            RemoteError: it cannot be opened, and why.
        """
        from gitbridge.remotes import open_remote_store

        return open_remote_store(self, remote, create, treeish)


_SHARED_WORDS = frozenset(("group", "all", "world", "everybody", "true", "yes", "on", "1", "2"))


def canonical_name(name: str) -> str:
    """Return a setting's name as git lists it: section and key in lower case, the middle as it is."""
    first, dot, rest = name.partition(".")
    middle, dot2, last = rest.rpartition(".")
    return f"{first.lower()}{dot}{middle}{dot2}{last.lower()}"


def parse_config(listing: bytes) -> dict[str, list[str]]:
    """Read the output of `git config -z --list`; a name without a value is true, as for git."""
    found: dict[str, list[str]] = {}
    for item in listing.split(b"\0")[:-1]:
        name, newline, value = item.partition(b"\n")
        text = value.decode("utf-8", "surrogateescape") if newline else "true"
        found.setdefault(name.decode("utf-8", "surrogateescape"), []).append(text)
    return found


def _walk_up(directory: str) -> tuple[str, str | None] | None:
    """Look for `.git`, or a bare repository, from `directory` upwards; None leaves the answer to git."""
    while True:
        candidate = os.path.join(directory, ".git")
        if os.path.isfile(candidate):
            git_dir = _read_git_file(candidate)
            return (git_dir, directory) if git_dir and _is_git_dir(git_dir) else None
        if _is_git_dir(candidate):
            return candidate, directory
        if _is_git_dir(directory):
            return directory, None
        above = os.path.dirname(directory)
        if above == directory:
            return None
        directory = above


def _is_git_dir(path: str) -> bool:
    if not os.path.lexists(os.path.join(path, "HEAD")):
        return False
    if os.path.isfile(os.path.join(path, "commondir")):
        return True
    return os.path.isdir(os.path.join(path, "objects")) and os.path.isdir(os.path.join(path, "refs"))


def _read_git_file(path: str) -> str | None:
    """Return what a `.git` file points to (linked work trees, submodules, --separate-git-dir)."""
    try:
        with open(path, "rb") as stream:
            text = os.fsdecode(stream.read(65_536))
    except OSError:
        return None
    if not text.startswith("gitdir: "):
        return None
    return os.path.normpath(os.path.join(os.path.dirname(path), text[8:].rstrip("\r\n")))


def _common_dir(git_dir: str, environment: os._Environ[str] | dict[str, str]) -> str:
    named = environment.get("GIT_COMMON_DIR")
    if named:
        return os.path.abspath(named)
    try:
        with open(os.path.join(git_dir, "commondir"), "rb") as stream:
            return os.path.normpath(os.path.join(git_dir, os.fsdecode(stream.read(65_536)).rstrip("\r\n")))
    except OSError:
        return git_dir


def _read_config_file(common_dir: str) -> bytes:
    try:
        with open(os.path.join(common_dir, "config"), "rb") as stream:
            return stream.read()
    except OSError:
        return b""


def _work_tree_beside(start: str, git_dir: str) -> str | None:
    """Return the work tree that git takes with GIT_DIR set: GIT_WORK_TREE, core.worktree, or where we are."""
    named = os.environ.get("GIT_WORK_TREE")
    if named:
        return os.path.join(start, named)
    text = _read_config_file(_common_dir(os.path.abspath(git_dir), os.environ)).lower()
    if b"worktree" in text or b"bare = true" in text or b"bare=true" in text or b"include" in text:
        return _ask_git(start).work_tree
    return start


def _pinned_environment(start: str, git_dir: str) -> dict[str, str]:
    """Return our environment with GIT_DIR made absolute, since we run git at the top of the work tree."""
    environment = dict(os.environ)
    environment["GIT_DIR"] = os.path.abspath(git_dir)
    work_tree = _work_tree_beside(start, git_dir)
    if work_tree is not None:
        environment["GIT_WORK_TREE"] = os.path.abspath(work_tree)
    if "GIT_COMMON_DIR" in environment:
        environment["GIT_COMMON_DIR"] = os.path.abspath(environment["GIT_COMMON_DIR"])
    return environment


def _ask_git(start: str) -> Repository:
    """Let git say where the repository is: slower, and always right."""
    import subprocess

    def ask(*what: str) -> subprocess.CompletedProcess[bytes]:
        command = ["git", "rev-parse", *what]
        return subprocess.run(command, cwd=start, capture_output=True, check=False)

    try:
        answer = ask("--absolute-git-dir")
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.isdir(start):
            raise RepositoryMissingError(f"there is no directory '{start}', and so no Git repository") from None
        raise GitError("git is not installed, or not on PATH", "git --version must work in this shell") from None
    if answer.returncode:
        words = answer.stderr.decode(sys.getfilesystemencoding(), "replace").strip().removeprefix("fatal: ")
        where = os.path.abspath(start)
        raise RepositoryMissingError(f"'{where}' is not inside of a Git repository ({words})", "git init")
    top = ask("--show-toplevel")
    work_tree = os.fsdecode(top.stdout).rstrip("\n") if not top.returncode else None
    environment = dict(os.environ) if "GIT_DIR" in os.environ or "GIT_WORK_TREE" in os.environ else None
    git_dir = os.fsdecode(answer.stdout).rstrip("\n")
    if environment is not None:
        environment["GIT_DIR"] = git_dir
        if work_tree:
            environment["GIT_WORK_TREE"] = work_tree
    return Repository(git_dir, work_tree, environment)
