"""The composition root: the only place that constructs stores, kernel doors, servers and agents,
and that names the tasks between them. One module a process: `server`, `agent`."""
