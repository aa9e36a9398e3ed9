"""`thetastore undelete`."""

from __future__ import annotations

import sys

from thetastore.cli.opening import EXIT_DONE, EXIT_FOUND, add_json_option, open_store, store_parser
from thetastore.command_line import print_json
from thetastore.output import add_quiet_option

_EPILOG = """\
Without ID or --all, what could be taken back is listed. What was taken back is there as before; give it a name, or the
next gc lets go of it again.
"""


def run(arguments: list[str]) -> int:
    """Take back what gc has condemned or put in the trash."""
    parser = store_parser("undelete", "Take back what gc has condemned, or put in the trash.", _EPILOG)
    parser.add_argument("id", nargs="?", metavar="ID", help="what to take back, as this command lists it")
    parser.add_argument("--all", action="store_true", help="take everything back")
    add_json_option(parser)
    add_quiet_option(parser)
    options = parser.parse_args(arguments)
    from thetastore.collecting.report import let_go_text, let_go_values
    from thetastore.collecting.undeleting import list_let_go, undelete

    is_list = options.id is None and not options.all
    with open_store(options) as store:
        found = list_let_go(store.objects) if is_list else undelete(store.objects, options.id)
    if options.json:
        print_json({"let_go" if is_list else "taken_back": let_go_values(found)})
    elif is_list or not options.quiet:
        sys.stdout.write(let_go_text(found))
    if not found:
        print(f"{options.store}: nothing was let go of that could be taken back", file=sys.stderr)
    elif not is_list and not options.quiet:
        print("taken back: it is there as before; what has no name is let go of again by the next gc", file=sys.stderr)
    return EXIT_DONE if found or is_list else EXIT_FOUND
