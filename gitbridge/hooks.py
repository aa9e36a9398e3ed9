r"""Our hooks, beside the user's own.

`pre-push` sends weights before git sends commits; `pre-commit` names large checkpoints that git is about to keep
whole; `post-checkout`, `post-merge` and `post-rewrite`, where the user has them, complete a fill before anything of the
user's reads the files; `prepare-commit-msg`, put in when a merge first mixes weights, says in the commit's message how.
Where a shell script is there already (Git LFS's, say), our lines go in after its first line and everything else of it
stays; where something else is there (a program, a symlink, a script for another interpreter, one that is switched off),
it is renamed to `<hook>.theta-user` and ours runs it. Either way uninstalling leaves the file as it was, byte for byte.

Our lines keep what a user's hook relies on: arguments, working directory, exit status, and standard input -
the refs that git pipes into `pre-push` are read, handed to us, and put back.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from gitbridge.errors import HookError
from gitbridge.repository import Repository
from thetastore.sharing import share_as_above

HOOKS = ("pre-push", "post-checkout", "post-merge", "post-rewrite")
COMMIT_HOOK = "pre-commit"
MESSAGE_HOOK = "prepare-commit-msg"
_ALWAYS = ("pre-push", COMMIT_HOOK)
USER_SUFFIX = ".theta-user"

_BEGIN = b"# >>> git theta >>>\n"
_BEGIN_OWN = b"# >>> git theta >>> (nothing else is in this file)\n"
_END = b"# <<< git theta <<<\n"
_SHELLS = ("sh", "bash", "dash", "ash", "ksh", "zsh")

_FIND = """\
theta_program=$(git config --get theta.program || echo git-theta)
command -v "$theta_program" >/dev/null 2>&1 || theta_program=git-theta
"""

# The dot keeps the shell from dropping the last newline. A repository that never saw us (hooks shared by
# core.hooksPath) must be pushed without the tool too, hence the two tests before the refusal.
_PRE_PUSH = f"""\
theta_refs=$(cat; echo .) && theta_refs=${{theta_refs%.}}
{_FIND}\
if command -v "$theta_program" >/dev/null 2>&1; then
  printf '%s' "$theta_refs" | "$theta_program" hook pre-push "$@" || exit $?
elif [ -d "$(git rev-parse --git-common-dir)/theta" ] ||
  git grep -q filter=theta HEAD -- '*.gitattributes' 2>/dev/null; then
  echo "git theta: the program 'git-theta' is not on PATH, so this push would send pointers without their weights" >&2
  echo "hint: pip install thetastore, then git theta install (to push without weights: git push --no-verify)" >&2
  exit 1
fi
if [ -n "$theta_refs" ]; then exec <<THETA_REFS
${{theta_refs%?}}
THETA_REFS
else exec </dev/null; fi
unset theta_refs theta_program
"""

_FIND_INSIDE = _FIND.strip().replace("\n", "\n  ")

# Python starts only where a fill has left a journal, or a merge a note: it would cost each checkout and commit 40 ms.
_AFTER = f"""\
for theta_journal in "${{GIT_DIR:-$(git rev-parse --git-dir)}}"/theta/PLACE/*; do
  [ -e "$theta_journal" ] || break
  {_FIND_INSIDE}
  if command -v "$theta_program" >/dev/null 2>&1; then "$theta_program" hook HOOK "$@" </dev/null || :; fi
  break
done
unset theta_journal theta_program
"""

# A commit goes on, unless a pointer in it was edited. Python starts only where a tracked file is in the commit, or
# something so long that it may have to be named.
# The loop is in parentheses since some shells run the end of a pipe themselves, and would leave the user's hook.
_PRE_COMMIT = f"""\
theta_least=$(git config --type=int --get theta.warnSize || echo 10485760)
theta_tree=$(git rev-parse -q --verify HEAD || git hash-object -t tree /dev/null)
if git diff-index --cached --diff-filter=AM --no-renames --name-only -z "$theta_tree" 2>/dev/null |
  git check-attr --stdin -z filter 2>/dev/null | tr '\\0' '\\n' | grep -x theta >/dev/null || {{
  [ "$theta_least" -gt 0 ] 2>/dev/null &&
  git diff-index --cached --diff-filter=AM --no-renames "$theta_tree" 2>/dev/null |
  cut -d ' ' -f 4 | git cat-file --batch-check='%(objectsize)' 2>/dev/null |
  (while read -r theta_size; do [ "$theta_size" -ge "$theta_least" ] && exit 0; done; exit 1) 2>/dev/null; }}; then
  {_FIND_INSIDE}
  if command -v "$theta_program" >/dev/null 2>&1; then
    "$theta_program" hook {COMMIT_HOOK} </dev/null || [ $? -ne 1 ] || exit 1
  fi
fi
unset theta_least theta_tree theta_program
"""

# Git LFS puts no hook of its own where one is, and says nothing: its files would be pushed without their content.
_LFS = """\
if [ -d "$(git rev-parse --git-common-dir)/lfs" ] && command -v git-lfs >/dev/null 2>&1; then
  exec git lfs pre-push "$@"
fi
"""

_CHAIN = f"""\
if [ -x "$0{USER_SUFFIX}" ]; then exec "$0{USER_SUFFIX}" "$@"; fi
"""


class Hook(NamedTuple):
    """What lies at the place of one hook."""

    path: str
    content: bytes | None
    """None where nothing is there."""
    takes_lines: bool
    """Whether it is an executable shell script and no link, so that lines can be put into it."""

    @property
    def name(self) -> str:
        """`pre-push` and so on."""
        return os.path.basename(self.path)

    @property
    def is_installed(self) -> bool:
        """Whether our lines, as this version writes them, are in it and git will run them."""
        return self.takes_lines and self.content is not None and hook_lines(self.name) in self.content

    @property
    def has_ours(self) -> bool:
        """Whether lines of ours, of any version, are in it."""
        return self.content is not None and _END in self.content

    @property
    def is_ours_alone(self) -> bool:
        """Whether it is our own file, and runs nothing of the user's."""
        return self.content == _own_file(self.name, is_chained=False)


def hooks_dir(repository: Repository) -> str:
    """Return the directory where git looks for this repository's hooks."""
    named = repository.config("core.hooksPath")
    if named:
        return os.path.join(repository.work_tree or repository.git_dir, os.path.expanduser(named))
    return os.path.join(repository.common_dir, "hooks")


def hook_lines(name: str) -> bytes:
    """Return what our lines do in a hook, without marks."""
    if name == "pre-push":
        return _PRE_PUSH.encode()
    if name == COMMIT_HOOK:
        return _PRE_COMMIT.encode()
    return _AFTER.replace("HOOK", name).replace("PLACE", "merged" if name == MESSAGE_HOOK else "pending").encode()


def read_hook(path: str) -> Hook:
    """Look at what lies at the place of a hook."""
    is_link = os.path.islink(path)
    try:
        with open(path, "rb") as stream:
            content = stream.read()
    except FileNotFoundError:
        return Hook(path, b"" if is_link else None, False)
    return Hook(path, content, not is_link and os.access(path, os.X_OK) and _is_shell_script(content))


def missing(repository: Repository) -> list[str]:
    """Return the names of the hooks that our lines belong in and are not, or those of an older version."""
    return [hook.name for hook in _wanted(hooks_dir(repository)) if not hook.is_installed]


def _wanted(directory: str) -> list[Hook]:
    """Return the hooks that our lines belong in: before a push and a commit, and the others where the user has one.

    Where nothing of the user's runs, nobody reads files before the filter has filled them at the end of its input,
    and a hook would start a second Python for each checkout.
    """
    found = [read_hook(os.path.join(directory, name)) for name in (*HOOKS, COMMIT_HOOK)]
    wanted = [hook for hook in found if hook.name in _ALWAYS or hook.content is not None]
    message = read_hook(os.path.join(directory, MESSAGE_HOOK))
    return [*wanted, message] if message.has_ours else wanted


def install(repository: Repository) -> list[str]:
    """Put our lines into all hooks where they belong; return the names of those that changed.

    Raises:
        HookError: the directory or a file cannot be written.
    """
    directory = hooks_dir(repository)
    try:
        os.makedirs(directory, exist_ok=True)
        changed = [hook.name for hook in _wanted(directory) if _put_in(hook)]
    except OSError as error:
        raise HookError(
            f"the hooks in '{directory}' cannot be written: {error.strerror}",
            "until then, run 'git theta push' before each 'git push'",
        ) from error
    _mark(repository, directory)
    return changed


def uninstall(repository: Repository) -> list[str]:
    """Take our lines out of all hooks; return the names of those that changed.

    Raises:
        HookError: a file cannot be written.
    """
    directory = hooks_dir(repository)
    try:
        names = (*HOOKS, COMMIT_HOOK, MESSAGE_HOOK)
        changed = [name for name in names if _take_out(read_hook(os.path.join(directory, name)))]
        _remove(_marker_path(repository))
    except OSError as error:
        words = f"the hooks in '{directory}' cannot be written: {error.strerror}"
        raise HookError(words, f"chmod u+w '{directory}', or 'git theta uninstall --skip-repo' leaves them") from error
    return changed


def install_missing(repository: Repository) -> list[str]:
    """Install hooks where they are missing, as the filter does wherever it runs; return what changed.

    Costs a few `stat` calls where nothing changed since they were installed. Where they cannot be installed
    it says so and goes on: a missing hook must not make a checkout fail.
    """
    if _is_marked(repository) or _is_overridden():
        return []
    try:
        return install(repository) if repository.config_bool("theta.installHooks", True) else []
    except HookError as error:
        import sys

        print(f"git theta: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return []


def install_for_messages(repository: Repository) -> bool:
    """Put our lines into `prepare-commit-msg`, for a merge that has something to say; tell whether git will run them.

    Git looks for that hook only after its merge drivers have run, so this is in time for the merge that is going on.
    """
    directory = hooks_dir(repository)
    hook = read_hook(os.path.join(directory, MESSAGE_HOOK))
    if _is_overridden():
        return False
    if hook.is_installed or not repository.config_bool("theta.installHooks", True):
        return hook.is_installed
    is_marked = _is_marked(repository)
    try:
        os.makedirs(directory, exist_ok=True)
        _put_in(hook)
    except (OSError, HookError):
        return False
    if is_marked:
        _mark(repository, directory)
    return True


# One hook


def _is_shell_script(content: bytes) -> bool:
    """Tell whether the first line names a shell that understands our lines."""
    first, newline, _ = content.partition(b"\n")
    if not newline or not first.startswith(b"#!") or first.endswith(b"\r"):
        return False
    words = first[2:].decode("utf-8", "replace").split()
    if words and os.path.basename(words[0]) == "env":
        words = words[1:]
    return bool(words) and os.path.basename(words[0]) in _SHELLS


def _own_file(name: str, is_chained: bool) -> bytes:
    rest = _CHAIN if is_chained else _LFS if name == "pre-push" else ""
    return b"#!/bin/sh\n" + _BEGIN_OWN + hook_lines(name) + rest.encode() + _END


def _put_in(hook: Hook) -> bool:
    if hook.is_installed:
        return False
    if hook.has_ours:
        _take_out(hook)  # lines of another version, or a file that lost its executable bit
        hook = read_hook(hook.path)
    if hook.content is None:
        _write(hook.path, _own_file(hook.name, is_chained=os.path.lexists(hook.path + USER_SUFFIX)), 0o777)
    elif hook.takes_lines:
        first, newline, rest = hook.content.partition(b"\n")
        mode = os.stat(hook.path).st_mode & 0o7777
        _write(hook.path, first + newline + _BEGIN + hook_lines(hook.name) + _END + rest, mode)
    else:
        if os.path.lexists(hook.path + USER_SUFFIX):
            raise HookError(
                f"'{hook.path}' and '{hook.path}{USER_SUFFIX}' are both there, so neither can be moved out of the way",
                "join them by hand, or remove one",
            )
        os.rename(hook.path, hook.path + USER_SUFFIX)
        _write(hook.path, _own_file(hook.name, is_chained=True), 0o777)
    return True


def _take_out(hook: Hook) -> bool:
    if not hook.has_ours or hook.content is None:
        return False
    before, begin, rest = hook.content.partition(_BEGIN_OWN)
    is_own = bool(begin)
    if not is_own:
        before, _, rest = hook.content.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    if not is_own or after:
        # The user's script, or one that grew around our file: what is not ours stays.
        _write(hook.path, before + after, os.stat(hook.path).st_mode & 0o7777)
    elif os.path.lexists(hook.path + USER_SUFFIX):
        os.rename(hook.path + USER_SUFFIX, hook.path)
    else:
        os.unlink(hook.path)
    return True


def _write(path: str, content: bytes, mode: int) -> None:
    """Replace a file in one step, so that git never runs half a hook; the umask cuts what a new file gets, as git's."""
    temporary = f"{path}.theta-{os.getpid()}"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as stream:
        stream.write(content)
    if mode not in (0o777, 0o666):
        os.chmod(temporary, mode)
    share_as_above(temporary)
    os.rename(temporary, path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


# The mark that says: all is in place, unless one of these files changed


def _marker_path(repository: Repository) -> str:
    return os.path.join(repository.theta_dir, "hooks")


def _mark(repository: Repository, directory: str) -> None:
    if _is_overridden():
        return
    try:
        os.makedirs(repository.theta_dir, exist_ok=True)
        share_as_above(repository.theta_dir)
        text = f"{directory}\n{_signature(repository, directory)}"
        _write(_marker_path(repository), os.fsencode(text), 0o666)
    except OSError:
        return  # the next process looks again


def _is_marked(repository: Repository) -> bool:
    try:
        with open(_marker_path(repository), "rb") as stream:
            directory, _, signature = os.fsdecode(stream.read()).partition("\n")
    except OSError:
        return False
    return signature == _signature(repository, directory)


def _signature(repository: Repository, directory: str) -> str:
    """Return a text that changes when a hook does, or a file that could set core.hooksPath."""
    environment = os.environ
    home = environment.get("HOME", "")
    configuration = environment.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    files = [
        environment.get("GIT_CONFIG_SYSTEM", "/etc/gitconfig"),
        *(
            [environment["GIT_CONFIG_GLOBAL"]]
            if "GIT_CONFIG_GLOBAL" in environment
            else [os.path.join(home, ".gitconfig"), os.path.join(configuration, "git", "config")]
        ),
        os.path.join(repository.common_dir, "config"),
        os.path.join(repository.git_dir, "config.worktree"),
        *(os.path.join(directory, name) for name in (*HOOKS, MESSAGE_HOOK)),
    ]
    return "\n".join(_stamp(path) for path in files)


def _stamp(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return f"{path}\t-"
    return f"{path}\t{found.st_mtime_ns}\t{found.st_size}\t{found.st_mode:o}"


def _is_overridden() -> bool:
    """Tell whether `git -c core.hooksPath=…` holds for this command only: then hooks are not ours to mend."""
    return "hookspath" in os.environ.get("GIT_CONFIG_PARAMETERS", "").lower() or any(
        name.startswith("GIT_CONFIG_KEY_") and value.lower() == "core.hookspath" for name, value in os.environ.items()
    )
