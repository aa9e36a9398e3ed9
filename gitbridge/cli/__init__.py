"""The command line: `git theta <command>`. `main` finds the command, which imports what it uses."""
