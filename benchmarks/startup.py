"""How long a command takes to begin: CPU seconds of processes that have hardly anything to do.

Commands take turns, so that a busy machine slows all of them alike; the median of the rounds is printed beside the time
that Python takes to import torch, which no command that computes can save.

    python benchmarks/startup.py --rounds 7 --json FILE
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

COMMANDS = {  # name -> words for Python, exit status
    "metarun --help": (["-m", "metarun", "--help"], 0),
    "metarun --version": (["-m", "metarun", "--version"], 0),
    "metarun train --help": (["-m", "metarun", "train", "--help"], 0),
    "a wrong key": (["-m", "metarun", "train", "algo=maml", "stpes=3"], 2),
    "a wrong value": (["-m", "metarun", "train", "algo=maml", "steps=three"], 2),
    "import torch": (["-c", "import torch"], 0),
}


def cpu_seconds(words: list[str], status: int, folder: str) -> float:
    """User and system time of one process, with what it started; ends this one where it ends with another status."""
    before = os.times()
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
    after = os.times()
    if done.returncode != status:
        sys.exit(f"{' '.join(words)}: status {done.returncode}\n{done.stderr}")
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="times that each command is run")
    parser.add_argument("--json", metavar="FILE", help="where to write the figures")
    settings = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:  # in which a command finds nothing
        for _ in range(settings.rounds):
            for name, (words, status) in COMMANDS.items():
                taken[name].append(cpu_seconds(words, status, folder))
    print(f"{'command':24}{'CPU s':>8}   least .. most of {settings.rounds}")
    for name, seconds in taken.items():
        print(f"{name:24}{statistics.median(seconds):>8.2f}   {min(seconds):.2f} .. {max(seconds):.2f}")
    if settings.json:
        Path(settings.json).write_text(json.dumps(taken, indent=2) + "\n")


if __name__ == "__main__":
    main()
