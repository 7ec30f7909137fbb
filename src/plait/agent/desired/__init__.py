"""Pure: (snapshot, host) -> HostState, one module for each part."""
