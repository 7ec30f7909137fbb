"""The small doors to the Linux kernel.

Each door has its fake, which passes the same contract tests.
"""
