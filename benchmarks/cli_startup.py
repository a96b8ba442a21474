"""How long the command line takes to answer, against a bare interpreter measured in the same round.

python benchmarks/cli_startup.py [ROUNDS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

_ENTRY = "import sys; from mccore.cli import main; sys.exit(main(sys.argv[1:]))"
COMMANDS = {
    "bare python": ["-c", "pass"],
    "import click": ["-c", "import click"],
    "mccore --help": ["-c", _ENTRY, "--help"],
    "mccore plugins": ["-c", _ENTRY, "plugins"],
    "mccore runs": ["-c", _ENTRY, "runs"],
    "mccore run tiny --dry-run": ["-c", _ENTRY, "run", "tiny", "--dry-run"],
}


def measure(arguments: list[str]) -> float:
    """Wall time of one start in seconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Measure all commands in turn, round by round, so that a busy moment hits them alike."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            times[name].append(measure(arguments))
    reference = statistics.median(times["bare python"])
    print(f"{'command':<28}{'median':>9}{'quartiles':>18}{'/ bare python':>16}   ({rounds} rounds)")
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        spread = f"{low * 1e3:.0f}-{high * 1e3:.0f} ms"
        print(f"{name:<28}{median * 1e3:>6.0f} ms{spread:>18}{median / reference:>15.1f}x")


if __name__ == "__main__":
    main()
