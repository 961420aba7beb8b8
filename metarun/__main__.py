"""``metarun`` and ``python -m metarun``."""

import io
import os
import sys
import threading


def run() -> None:
    """Run the command line; the entry point of the console script."""
    try:
        from metarun.cli.main import main
    except KeyboardInterrupt:  # before main answers signals itself
        sys.stderr.write("metarun: stopped\n")
        sys.exit(130)

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # paths need not be UTF-8, and some terminals are not
    status = main()
    # A rank that is done leaves without unloading torch, whose threads of communication can abort it then (seen once
    # with torch 2.13), and with it the rank that still writes. A tracker that hangs would keep the process for ever.
    hanging = any(thread.name.startswith("tracker ") for thread in threading.enumerate())
    if hanging or "TORCHELASTIC_RUN_ID" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
