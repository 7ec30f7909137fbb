"""One per host, and the only writer of that host's kernel."""
