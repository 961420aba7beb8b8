"""``metarun`` and ``python -m metarun``."""

import sys


def run() -> None:
    """Entry point of the console script."""
    from metarun.cli import main

    sys.exit(main())


if __name__ == "__main__":
    run()
