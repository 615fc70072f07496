"""``python -m sendoff_server.settings``: print the sample file, or with a page's path write the page's tables anew."""

import sys
from pathlib import Path

from sendoff_server.settings.pages import rewrite
from sendoff_server.settings.written import sample, tables


def main(arguments: list[str]) -> int:
    match arguments:
        case ["sample"]:
            sys.stdout.write(sample())
        case ["tables"]:
            sys.stdout.write(tables())
        case ["page", path]:
            rewrite(Path(path), tables())
        case _:
            sys.stderr.write("usage: python -m sendoff_server.settings sample | tables | page FILE\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
