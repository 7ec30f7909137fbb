"""One module for each part of HostState: observe() -> actual, plan() -> ops (pure), apply(ops)."""
