"""Where the weights of a Git remote live.

What names a remote store, the first that does counting: `remote.<name>.thetaUrl` and `theta.url` in git
configuration; `theta.url` in the committed `.thetaconfig` (of the index, else of the tree being checked
out, else of HEAD), so that a plain `git clone` works; and, where the Git remote is a path on this machine,
the store of the repository there, and whatever that one is configured with.

A place is a directory of this machine or a URL (docs/remotes.md). A committed file is written by others: nothing but
`theta.url` is taken from it, git reads it without includes, what opens a store never comes from it (`store_options`),
and no weights are sent to somebody else's place that only it names before a person agrees (`consent`).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from gitbridge.errors import ConfigError, ConsentError, GitError, RemoteError, RepositoryMissingError, RevisionError
from gitbridge.repository import Repository
from gitbridge.store_options import StorageOptions, options_for
from thetastore.backends.requests import PassingError
from thetastore.backends.urls import SCHEMES, is_url, parse_url
from thetastore.errors import MalformedError, StoreMissingError, ThetaError, UnsupportedError, did_you_mean, near_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thetastore.digest import Digest
    from thetastore.store import Store

COMMITTED_NAME = ".thetaconfig"
_DEEPEST_ORIGIN = 4
"""A clone of a clone of a clone: how many repositories on this machine are followed."""


class Place(NamedTuple):
    """A remote store, and who says that it is there."""

    location: str
    """Absolute path of a directory, or a URL in its one spelling."""
    url: str
    """As it was written, for messages."""
    source: str
    """The setting that names it: `remote.origin.thetaUrl`, `theta.url`, `.thetaconfig`, or `origin`."""
    options: StorageOptions = StorageOptions()
    """What gets one in, where it is a URL."""

    @property
    def directory(self) -> str | None:
        """Absolute path, if it is a directory of this machine."""
        return None if is_url(self.location) else self.location

    @property
    def is_committed(self) -> bool:
        """Whether only a committed file names it."""
        return self.source == COMMITTED_NAME

    @property
    def setting(self) -> str:
        """What to set to have another place, as `git config` takes it."""
        return self.source if self.source.startswith("remote.") else "theta.url"


def places(
    repository: Repository, remote: str | None, treeish: str | None = None, git_url: str | None = None
) -> list[Place]:
    """Return the stores that may hold a remote's weights, the one to push to first.

    Args:
        repository: whose remote it is.
        remote: name, path or URL of a Git remote; None is the one that `git fetch` would use.
        treeish: the tree being checked out, where it is known.
        git_url: where git pushes to, where that is known (a remote may fetch from elsewhere).

    Raises:
        ConfigError: a URL is malformed, or holds a secret.
    """
    return _distinct(_places(repository, remote, treeish, git_url, repository))


def remote_store_url(repository: Repository, remote: str | None, treeish: str | None = None) -> str | None:
    """Return path or URL of the store to use for a Git remote, or None where nothing names one."""
    found = places(repository, remote, treeish)
    return found[0].location if found else None


def open_remote_store(
    repository: Repository, remote: str | None, create: bool = False, treeish: str | None = None
) -> Store | None:
    """Open the store of a Git remote; None where nothing names one.

    Raises:
        RemoteError: it cannot be opened, and why.
    """
    found = places(repository, remote, treeish)
    return open_place(found[0], create) if found else None


def open_place(place: Place, create: bool = False, expected: Sequence[Digest] = ()) -> Store:
    """Open a remote store; see `Store.open` for `expected`.

    Raises:
        RemoteError: it is not there, not a store, or not readable.
    """
    store = open_place_if_there(place, create, expected)
    if store is None:
        way = "mount it, mend the URL" if place.directory else "mend the URL"
        raise RemoteError(
            f"there is no store at '{place.url}' (from {place.source})",
            f"{way}, or push from where the weights are: the first push creates the store",
        )
    return store


def open_place_if_there(place: Place, create: bool = False, expected: Sequence[Digest] = ()) -> Store | None:
    """Open a remote store; None where the place is to be had and no store is there.

    Raises:
        RemoteError: it is not a store, cannot be read or made, or cannot be reached.
    """
    from thetastore.store import Store

    directory = place.directory
    if create and directory and not is_store(directory) and _is_git_repository(directory):
        raise RemoteError(
            f"'{place.url}' (from {place.source}) is a Git repository, and weights must not go among its files",
            f"git config {place.setting} /path/to/another/directory",
        )
    try:
        return Store.open(place.location, create=create, options=place.options, expected=expected)
    except StoreMissingError:
        return None
    except (ThetaError, OSError) as error:
        verb = "created" if create and directory and not os.path.exists(directory) else "opened"
        reason = getattr(error, "strerror", None) or str(error)
        raise RemoteError(
            f"the store '{place.url}' (from {place.source}) cannot be {verb}: {reason}", _way_in(place, error)
        ) from error


def _way_in(place: Place, error: Exception) -> str:
    if place.directory:
        return f"mend that, or name another directory: git config {place.setting} /path/to/directory"
    if isinstance(error, UnsupportedError) or getattr(error, "errno", None) == errno.ENOENT:
        return f"or name another place: git config {place.setting} …"
    url = parse_url(place.location)
    prefix = f"theta.{url.scheme}://{url.authority}"
    if isinstance(error, PassingError):
        usual = f", or the endpoint another (git config {prefix}.endpoint-url …)" if url.kind == "s3" else ""
        return f"is the network up{usual}? what is in the local store can be used without"
    if getattr(error, "errno", None) == errno.EINVAL:
        return "git config --get-regexp '^theta\\..*://' lists the options (docs/remotes.md)"
    way = _HOW_TO_GET_IN.get(url.kind or "", "what gets you in there, {prefix}.… says")
    return f"{way.format(prefix=prefix)} (docs/remotes.md)"


_HOW_TO_GET_IN = {
    "s3": "who are you there? git config {prefix}.profile … (or .endpoint-url, .anon)",
    "gcs": "who are you there? gcloud auth application-default login, or git config {prefix}.project … (or .anon)",
    "azure": "who are you there? git config {prefix}.account-name … (or .anon)",
    "sftp": "does 'sftp' get in without a question? if so, git config {prefix}.port … (or .username, .known-hosts)",
    "http": "who are you there? only what is public can be read",
}


def _is_git_repository(directory: str) -> bool:
    names = ("HEAD", "objects", "refs")
    return os.path.lexists(os.path.join(directory, ".git")) or all(
        os.path.exists(os.path.join(directory, name)) for name in names
    )


def default_remote(repository: Repository) -> str | None:
    """Return the remote that `git fetch` would use: the branch's, else origin, else the only one."""
    try:
        with open(os.path.join(repository.git_dir, "HEAD"), encoding="utf-8", errors="surrogateescape") as stream:
            head = stream.read(4096).strip()
    except OSError:
        head = ""
    if head.startswith("ref: refs/heads/"):
        named = repository.config(f"branch.{head[16:]}.remote")
        if named and named != ".":
            return named
    names = remote_names(repository)
    if "origin" in names or len(names) != 1:
        return "origin" if "origin" in names else None
    return names[0]


def remote_names(repository: Repository) -> list[str]:
    """Return the names of all configured Git remotes."""
    return [name[7:-4] for name in repository.config_names() if name.startswith("remote.") and name.endswith(".url")]


def check_is_remote(repository: Repository, name: str | None) -> None:
    """Refuse the name of a Git remote that there is not; paths and URLs may be any.

    Raises:
        ConfigError: there is none; says what was probably meant.
    """
    known = remote_names(repository)
    if not name or name in known or "/" in name or ":" in name:
        return
    is_revision = repository.git("rev-parse", "--verify", "--quiet", "--end-of-options", name, check=False)
    hint = f"the remote comes first: git theta push {known[0]} {name}" if is_revision and known else ""
    raise ConfigError(f"there is no remote '{name}'{did_you_mean(near_names(name, known))}", hint or "git remote -v")


def store_location(url: str, root: str) -> str:
    """Return the path or the URL, in its one spelling, that a setting means; relative paths count from `root`.

    Raises:
        ConfigError: it is malformed, or holds a secret.
    """
    if not is_url(url):
        return store_directory(url, root)
    try:
        return str(parse_url(url))
    except MalformedError as error:
        raise ConfigError(
            str(error), "git config theta.url s3://bucket/prefix (secrets go elsewhere: docs/remotes.md)"
        ) from None


def store_directory(url: str, root: str) -> str:
    """Return the directory that a path or `file://` URL names; relative paths count from `root`.

    Raises:
        ConfigError: it is malformed, or names something else than a directory.
    """
    if not url or _has_control_characters(url):
        raise ConfigError(f"{url!r} is not a URL of a store", "git config theta.url /path/to/store")
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _plain_directory(url, root)
    if scheme.lower() != "file":
        raise ConfigError(
            f"'{url}' is no URL of a store, expected a path, or something like s3://bucket/prefix",
            "git config theta.url /path/to/a/directory (a mounted disk is one)",
        )
    from urllib.parse import unquote

    host, _, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise ConfigError(f"'{url}' names the host '{host}', expected file:///path", "mount it and name the directory")
    directory = unquote(path)
    if not directory or _has_control_characters(directory):
        raise ConfigError(f"'{url}' names no directory, expected file:///path", "git config theta.url /path/to/store")
    return os.path.normpath("/" + directory)


def _has_control_characters(text: str) -> bool:
    """Tell whether a terminal would obey the text, or show it in another order; committed files name places, too."""
    from unicodedata import bidirectional, category

    return any(category(c) == "Cc" or bidirectional(c) in _TURNING for c in text)


_TURNING = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))


def _plain_directory(url: str, root: str) -> str:
    if ":" in url.partition("/")[0]:
        raise ConfigError(
            f"'{url}' names a place on another machine in a way that a store's URL does not",
            f"sftp://host/path, or s3://bucket/prefix (or, if it is a directory: './{url}')",
        )
    expanded = os.path.expanduser(url)
    if expanded.startswith("~"):
        raise ConfigError(f"'{url}' begins with the home of somebody who is not known here", f"'./{url}' is no home")
    return os.path.normpath(os.path.join(root, expanded))


def consent(repository: Repository, place: Place) -> None:
    """Make sure that weights may go to a place that only a committed file names.

    A store of the user's own, or a directory that is there for it (new, or empty), needs no question. Of another one
    the terminal is asked where there is one, and a yes is remembered in `theta.trustedUrl`: otherwise a commit that
    somebody merged could send weights to where others read them, or strew packs over the user's home.

    Raises:
        ConsentError: nobody agreed.
    """
    directory = place.directory
    if not place.is_committed or (directory and _is_own(directory) and _is_for_weights(directory)):
        return
    if place.location in repository.config_all("theta.trustedUrl"):
        return
    if _ask(f"Send model weights to '{place.location}', which {COMMITTED_NAME} names? [y/N] "):
        repository.git("config", "--local", "--add", "theta.trustedUrl", place.location)
        repository.forget_config()
        return
    from shlex import quote

    what = "is on another machine"
    if directory:
        what = "holds other files" if _is_own(directory) else "belongs to somebody else"
    raise ConsentError(
        f"only the committed {COMMITTED_NAME} says that weights go to '{place.location}', which {what}, and nobody "
        "here has agreed",
        f"git config --add theta.trustedUrl {quote(place.location)}",
    )


def _is_own(directory: str) -> bool:
    """Tell whether a directory, or the one in which it would be made, belongs to this user."""
    while not os.path.lexists(directory) and os.path.dirname(directory) != directory:
        directory = os.path.dirname(directory)
    try:
        return os.stat(directory).st_uid == os.geteuid()
    except OSError:
        return False


def _is_for_weights(directory: str) -> bool:
    """Tell whether a directory is a store, or could become one without getting among other files."""
    if is_store(directory):
        return True
    try:
        return all(name.startswith("~") or name == "lost+found" for name in os.listdir(directory))
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _ask(question: str) -> bool:
    """Ask on the terminal itself: in a hook, standard input is git's."""
    try:
        with open("/dev/tty", "r+b", buffering=0) as terminal:
            terminal.write(question.encode())
            return terminal.read(100).strip().lower() in (b"y", b"yes")
    except OSError:
        return False


def _places(
    repository: Repository,
    remote: str | None,
    treeish: str | None,
    git_url: str | None,
    asker: Repository,
    depth: int = 0,
) -> list[Place]:
    """Return the places that a repository names; what gets one in, `asker` alone says."""
    name = remote or default_remote(repository)
    found = []
    for setting in ([f"remote.{name}.thetaUrl"] if name else []) + ["theta.url"]:
        url = repository.config(setting)
        if url:
            found.append(_place(repository, url, setting, asker))
    committed = _committed_url(repository, treeish, name) if not found else None
    if committed:
        found.append(_place(repository, committed, COMMITTED_NAME, asker))
    whose = git_url or name
    path = local_path(repository, whose) if whose else None
    return found + (_places_of_origin(repository, path, asker, depth) if path else [])


def _place(repository: Repository, url: str, source: str, asker: Repository) -> Place:
    location = store_location(url, repository.root)
    if not is_url(location):
        return Place(location, url, source)
    parsed = parse_url(location)
    is_said_by_others = source == COMMITTED_NAME or asker is not repository
    if is_said_by_others and parsed.scheme not in SCHEMES:
        raise ConfigError(
            f"{COMMITTED_NAME} names '{location}', and {parsed.scheme} URLs are used only where you say so yourself",
            f"git config theta.url {location}",
        )
    settings = {name: asker.config_all(name) for name in asker.config_names()}
    return Place(location, url, source, options_for(parsed, settings))


def _distinct(found: list[Place]) -> list[Place]:
    seen: dict[str, Place] = {}
    for place in found:
        seen.setdefault(os.path.realpath(place.directory) if place.directory else place.location, place)
    return list(seen.values())


def _committed_url(repository: Repository, treeish: str | None, remote: str | None) -> str | None:
    """Return what the committed file says: the index's, else that of the tree being checked out, else HEAD's.

    A commit may be older than the file. So last the newest is asked that a branch of this repository's has, or the
    branch that the remote calls its own; not others, which may be anybody's.
    """
    for tree in ("", treeish, "HEAD"):
        url = _url_in(repository, tree) if tree is not None else None
        if url:
            return url
    revisions = ["--ignore-missing", "--branches", f"refs/remotes/{remote}/HEAD"]
    newest = repository.git("rev-list", "-1", *revisions, "--", f":/{COMMITTED_NAME}", check=False)
    return _url_in(repository, newest.decode().strip()) if newest.strip() else None


def _url_in(repository: Repository, tree: str) -> str | None:
    urls = committed_values(repository, tree, "theta.url")
    return urls[-1] if urls and urls[-1] else None


def committed_values(repository: Repository, tree: str, name: str) -> list[str]:
    """Return every value that a setting has in the `.thetaconfig` of a tree, the last one last.

    Args:
        repository: whose tree it is.
        tree: a revision; empty for the index.
        name: of the setting, as `Setting.name`.

    Raises:
        ConfigError: the file is not written as git configuration is.
    """
    try:
        oid = repository.cat_file().read(f"{tree}:{COMMITTED_NAME}").oid
        listing = repository.git("config", "-z", "--no-includes", "--blob", oid, "--list")
    except RevisionError:
        return []
    except GitError as error:
        raise ConfigError(f"{COMMITTED_NAME} cannot be read: {error}", "mend it: it has git config syntax") from None
    lines = (line.partition("\n") for line in os.fsdecode(listing).split("\0"))
    return [value for found, _, value in lines if found == name.lower()]


def _places_of_origin(repository: Repository, path: str, asker: Repository, depth: int) -> list[Place]:
    """Return the stores of a repository on this machine that is our remote."""
    if depth == _DEEPEST_ORIGIN:
        return []
    try:
        with Repository.at(path) as origin:
            if origin.common_dir == repository.common_dir:
                return []
            own = origin.store_path()
            found = [Place(own, own, f"the repository at '{path}'")] if is_store(own) else []
            return found + _places(origin, None, None, None, asker, depth + 1)
    except (GitError, RepositoryMissingError, ConfigError):
        return []


def name_in_bare_remote(repository: Repository, remote: str, place: Place) -> str | None:
    """Write into a bare Git remote on this machine where its weights are, so that clones of it find them.

    Only where nothing says so yet: no setting of its own, no committed file.

    Returns:
        The path of the remote if it was written to, else None.
    """
    path = local_path(repository, remote)
    if path is None or place.source == COMMITTED_NAME:
        return None
    try:
        with Repository.at(path) as bare:
            if bare.work_tree is not None or _places(bare, None, None, None, bare, _DEEPEST_ORIGIN):
                return None
            bare.git("config", "theta.url", place.location)
    except (GitError, RepositoryMissingError, ConfigError):
        return None  # not ours to write to: whoever clones it is told what to set
    return path


def is_store(path: str) -> bool:
    """Tell whether a store lies in a directory (`.git/theta` also holds journals, which make no store)."""
    return os.path.isfile(os.path.join(path, "thetastore.json"))


def is_local_store(repository: Repository, place: Place) -> bool:
    """Tell whether a place is the repository's own local store, by whatever path: several may share it."""
    own = repository.store_path()
    return place.directory is not None and is_store(own) and os.path.realpath(place.directory) == os.path.realpath(own)


def local_path(repository: Repository, remote: str) -> str | None:
    """Return the path of a Git remote that is a directory on this machine, else None."""
    url = repository.config(f"remote.{remote}.url") or remote
    if any(name.startswith("url.") for name in repository.config_names()):
        url = os.fsdecode(repository.git("ls-remote", "--get-url", remote, check=False)).rstrip("\n") or url
    if url.startswith("file://"):
        try:
            return store_directory(url, repository.root)
        except ConfigError:
            return None
    colon, slash = url.find(":"), url.find("/")
    if colon >= 0 and (slash < 0 or colon < slash):
        return None  # a URL, or host:path
    path = os.path.join(repository.work_tree or repository.git_dir, os.path.expanduser(url))
    return path if os.path.isdir(path) or os.path.isdir(path + ".git") else None
