"""Static web UI over the public API. Room kept for the UI issue."""
