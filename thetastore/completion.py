"""Completion for shells, made from the parsers.

For bash there is one function that works in three places: as `_git_theta`, which git's own completion calls for
`git theta`; for the program typed by its own name; and without git's completion. What an argument may be is told
from the name that the help gives it: REMOTE, REV and the like, FILE and the like.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import NamedTuple

from thetastore.command_line import options_of, subcommands_of

SHELLS = ("bash", "zsh", "fish")


class _Spec(NamedTuple):
    summary: str
    options: list[str]
    values: dict[str, str]
    """What follows an option that takes a value: words, or one of the kinds."""
    positional: str
    """The same for arguments."""


def script(shell: str, program: str, commands: Mapping[str, tuple[str, argparse.ArgumentParser]]) -> str:
    """Return the completion of a program with commands, as a script for a shell.

    Args:
        shell: one of `SHELLS`.
        program: `git-theta` (which is completed as `git theta`, too), or another.
        commands: summary and parser by name.
    """
    specs = {name: _spec(summary, parser) for name, (summary, parser) in commands.items()}
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](program, specs)


def shell_of_user() -> str:
    """Return the shell that the user logs in with, or bash."""
    name = os.path.basename(os.environ.get("SHELL", ""))
    return name if name in SHELLS else "bash"


def _spec(summary: str, parser: argparse.ArgumentParser) -> _Spec:
    nested = subcommands_of(parser)
    options, values = options_of(parser), {}
    kinds = []
    for action in parser._actions:
        if action.option_strings and action.nargs != 0:
            values.update(dict.fromkeys(action.option_strings, _kind(action)))
        elif not action.option_strings and action.choices is None:
            kinds.append(_kind(action))
        elif not action.option_strings and action.choices is not None:
            kinds.append(" ".join(map(str, action.choices)))
    for _, sub in nested.values():
        options += [name for name in options_of(sub) if name not in options]
    return _Spec(summary, options, values, " ".join(dict.fromkeys(kinds)))


def _kind(action: argparse.Action) -> str:
    if action.choices is not None:
        return " ".join(map(str, action.choices))
    name = f"{action.metavar or ''} {action.dest}".upper()
    kinds = []
    if "REMOTE" in name:
        kinds.append("@remotes")
    if any(word in name for word in ("REV", "REF", "COMMIT", "BASE", "BRANCH")):
        kinds.append("@refs")
    if any(word in name for word in ("FILE", "PATH", "DIR", "PATTERN", "STORE", "NAMES")):
        kinds.append("@files")
    return " ".join(kinds)


_BASH = r"""# Completion of PROGRAM for bash, made by: TYPED completion bash
# To have it in each shell: TYPED completion bash > ~/.local/share/bash-completion/completions/PROGRAM
# (for `git theta`, also source that file in ~/.bashrc)
FUNCTION_reply() { # the words and kinds that may stand here
  local kind words=""
  COMPREPLY=()
  for kind in $1; do
    case "$kind" in
      @remotes) words+=" $(git remote 2>/dev/null)" ;;
      @refs)
        words+=" HEAD $(git for-each-ref --format='%(refname:short)' refs/heads refs/tags refs/remotes 2>/dev/null)"
        ;;
      @files) compopt -o filenames 2>/dev/null; local IFS=$'\n'; COMPREPLY+=($(compgen -f -- "$2")); IFS=$' \t\n' ;;
      *) words+=" $kind" ;;
    esac
  done
  COMPREPLY+=($(compgen -W "$words" -- "$2"))
}
FUNCTION_command() { # options, arguments, and what follows an option: of one command
  case "$1" in
CASES    *) options="" arguments="" values="" ;;
  esac
}
FUNCTION() {
  # git's completion has cut the line into words already; without it, bash has.
  case " ${FUNCNAME[*]} " in
    *" __git_main "*) ;;
    *) local cur="${COMP_WORDS[COMP_CWORD]}" words=("${COMP_WORDS[@]}") cword=$COMP_CWORD ;;
  esac
  local at=0 options arguments values name
  while [ "$at" -lt "$cword" ]; do
    case "${words[at]}" in STARTS) break ;; esac
    at=$((at + 1))
  done
  at=$((at + 1))
  if [ "$cword" -le "$at" ]; then
    FUNCTION_reply "COMMANDS" "$cur"
    return
  fi
  FUNCTION_command "${words[at]}"
  name="${words[cword - 1]}"
  case "$cur" in
    --*=*) name="${cur%%=*}" cur="${cur#*=}" ;;
    -*) FUNCTION_reply "$options" "$cur"; return ;;
    "=") name="${words[cword - 1]}" cur="" ;;
  esac
  [ "$name" = "=" ] && name="${words[cword - 2]}"
  local IFS=';' entry
  for entry in $values; do
    if [ "${entry%%:*}" = "$name" ]; then
      IFS=$' \t\n'
      FUNCTION_reply "${entry#*:}" "$cur"
      return
    fi
  done
  IFS=$' \t\n'
  FUNCTION_reply "$arguments" "$cur"
}
complete -o bashdefault -o default -F FUNCTION PROGRAM
"""


def _bash(program: str, specs: dict[str, _Spec]) -> str:
    cases = ""
    for name, spec in specs.items():
        values = ";".join(f"{option}:{kind}" for option, kind in spec.values.items())
        cases += f'    {name}) options="{" ".join(spec.options)}" arguments="{spec.positional}" values="{values}" ;;\n'
    cases += f'    help) options="" arguments="{" ".join(specs)}" values="" ;;\n'
    is_git = program.startswith("git-")
    starts = f"{program[4:]}|{program}|*/{program}" if is_git else f"{program}|*/{program}"
    text = _BASH.replace("CASES", cases).replace("COMMANDS", " ".join([*specs, "help"])).replace("STARTS", starts)
    function = f"_{program.replace('-', '_')}"
    return text.replace("FUNCTION", function).replace("TYPED", _typed(program)).replace("PROGRAM", program)


def _typed(program: str) -> str:
    return program.replace("-", " ", 1) if program.startswith("git-") else program


_ZSH_KINDS = {
    "@remotes": 'compadd -- ${(f)"$(git remote 2>/dev/null)"}',
    "@refs": "compadd -- HEAD ${(f)\"$(git for-each-ref --format='%(refname:short)' 2>/dev/null)\"}",
    "@files": "_files",
}


def _zsh(program: str, specs: dict[str, _Spec]) -> str:
    """A function that zsh's own `_git` calls for `git theta`; saved as `_git-theta` in a directory of $fpath."""
    listed = "\n".join(f"    {_quoted(f'{name}:{spec.summary}')}" for name, spec in specs.items())
    cases = ""
    for name, spec in specs.items():
        kinds = [_ZSH_KINDS[kind] for kind in spec.positional.split() if kind in _ZSH_KINDS]
        plain = [kind for kind in spec.positional.split() if kind not in _ZSH_KINDS]
        does = [f"compadd -- {' '.join(plain)}"] if plain else []
        does = [f"[[ $PREFIX == -* ]] && compadd -- {' '.join(spec.options)}", *does, *kinds]
        cases += f"    {name}) {'; '.join(does)} ;;\n"
    function = f"_{program}"
    return (
        f"#compdef {program}\n# Completion of {program} for zsh: {_typed(program)} completion zsh > "
        f"<a directory of $fpath>/{function}\n"
        f"{function}() {{\n  local -a commands=(\n{listed}\n  )\n"
        f"  local at=${{words[(I){program.removeprefix('git-')}|*{program}]}}\n"
        f"  if (( CURRENT <= at + 1 )); then _describe command commands; return; fi\n"
        f'  case "${{words[at + 1]}}" in\n{cases}  esac\n}}\n{function} "$@"\n'
    )


_FISH_KINDS = {
    "@remotes": "(git remote 2>/dev/null)",
    "@refs": "HEAD (git for-each-ref --format='%(refname:short)' 2>/dev/null)",
}


def _fish(program: str, specs: dict[str, _Spec]) -> str:
    """Lines of `complete`; saved as ~/.config/fish/completions/PROGRAM.fish."""
    lines = [
        f"# Completion of {program} for fish: {_typed(program)} completion fish > ~/.config/fish/conf.d/{program}.fish"
    ]
    ways = [(program, "__fish_use_subcommand", "")]
    if program.startswith("git-"):
        name = program[4:]
        none_yet = f"__fish_seen_subcommand_from {name}; and not __fish_seen_subcommand_from {' '.join(specs)}"
        ways.append(("git", none_yet, f"__fish_seen_subcommand_from {name}; and "))
    for typed, first, before in ways:
        for name, spec in specs.items():
            lines.append(f"complete -c {typed} -f -n '{first}' -a {name} -d {_quoted(spec.summary)}")
            here = f"'{before}__fish_seen_subcommand_from {name}'"
            for option in spec.options:
                kind = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
                lines.append(f"complete -c {typed} -n {here} {kind}")
            words = [_FISH_KINDS.get(kind, kind) for kind in spec.positional.split() if kind != "@files"]
            if words:
                lines.append(f'complete -c {typed} -n {here} -a "{" ".join(words)}"')
            if "@files" in spec.positional:
                lines.append(f"complete -c {typed} -n {here} -F")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    from shlex import quote

    return quote(text)
