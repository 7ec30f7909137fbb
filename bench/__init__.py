"""Benchmarks: each budget of the design beside a peer's figure, taken in the same run.

`scripts/bench` runs them and prints one table; `scripts/bench NAME` runs one. A benchmark is a
module with a function `rows() -> list[Row]`, named in `bench.__main__.BENCHES`. It says what it
does on standard error, leaves nothing behind also when it is interrupted, and decides nothing:
no test depends on a figure.
"""
