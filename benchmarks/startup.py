"""Time until ``dtme-search --help`` has answered, beside an empty Python process.

Both are started in turn; a figure is the median over rounds. Under half a second is asked for.

    python benchmarks/startup.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

HELP = "import sys; sys.argv = ['dtme-search', '--help']; from dtme_search.cli import main; main()"
COMMANDS = {"empty process": "pass", "import dtme_search": "import dtme_search", "dtme-search --help": HELP}


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds

    # The first round fills the file cache and does not count.
    times = [{name: seconds(code) for name, code in COMMANDS.items()} for _ in range(rounds + 1)][1:]
    print(f"{'':<22}{'s':>8}{'range':>16}{'times empty':>14}")
    empty = statistics.median(round_["empty process"] for round_ in times)
    for name in COMMANDS:
        each = [round_[name] for round_ in times]
        median = statistics.median(each)
        print(f"{name:<22}{median:>8.2f}{f'{min(each):.2f} - {max(each):.2f}':>16}{median / empty:>14.1f}")


if __name__ == "__main__":
    main()
