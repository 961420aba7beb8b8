"""``metarun`` and ``python -m metarun``."""

import os
import sys


def run() -> None:
    """Entry point of the console script."""
    try:
        from metarun.cli.main import main
    except KeyboardInterrupt:  # before main answers signals itself
        sys.stderr.write("metarun: stopped\n")
        sys.exit(130)

    status = main()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # A rank that is done leaves without unloading torch, whose threads of communication can abort it then (seen
        # once with torch 2.13), and with it the rank that still writes.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
