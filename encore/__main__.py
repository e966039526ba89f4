"""The command line: `encore`, and `python -m encore`."""

import encore  # noqa: F401 - it finds the rest, which is imported by name below
from cli import main

if __name__ == "__main__":
    main()
