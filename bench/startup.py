"""Start-up: `plait --help` beside `python -c pass`, interleaved in one run. Budget: 100 ms."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

ROUNDS = 25
BUDGET = 0.100

COMMANDS: dict[str, Sequence[str]] = {
    "python -c pass": (sys.executable, "-c", "pass"),
    "plait --help": (sys.executable, "-P", "-m", "plait", "--help"),
    "plait network --help": (sys.executable, "-P", "-m", "plait", "network", "--help"),
}


def measure(argv: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> int:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for argv in COMMANDS.values():
        measure(argv)
    for _ in range(ROUNDS):
        for name, argv in COMMANDS.items():
            times[name].append(measure(argv))
    floor = statistics.median(times["python -c pass"])
    print(f"{'command':24} {'median':>9} {'p95':>9} {'ratio':>7}   budget")
    for name, found in times.items():
        median = statistics.median(found)
        p95 = sorted(found)[int(len(found) * 0.95)]
        budget = f"{BUDGET * 1000:.0f} ms" if name == "plait --help" else ""
        columns = f"{median * 1000:6.1f} ms {p95 * 1000:6.1f} ms {median / floor:6.1f}x"
        print(f"{name:24} {columns}   {budget}")
    return 0 if statistics.median(times["plait --help"]) <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
