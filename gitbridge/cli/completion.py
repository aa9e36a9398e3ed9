"""`git theta completion`."""

from __future__ import annotations

import sys

from thetastore.command_line import Parser
from thetastore.completion import SHELLS, script, shell_of_user

_EPILOG = """\
bash   git theta completion bash > ~/.local/share/bash-completion/completions/git-theta
       and, so that `git theta` is completed too, in ~/.bashrc:
       source ~/.local/share/bash-completion/completions/git-theta
zsh    git theta completion zsh > ~/.zfunc/_git-theta      (with fpath+=~/.zfunc before compinit)
fish   git theta completion fish > ~/.config/fish/conf.d/git-theta.fish
"""


def completion(arguments: list[str]) -> int:
    """Print a completion script."""
    from argparse import RawDescriptionHelpFormatter

    parser = Parser(
        prog="git theta completion",
        description="Print what completes git theta in a shell.",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", nargs="?", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish; if none, yours")
    options = parser.parse_args(arguments)
    from gitbridge.cli.parsers import all_parsers

    sys.stdout.write(script(options.shell or shell_of_user(), "git-theta", all_parsers()))
    return 0
