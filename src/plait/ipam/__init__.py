"""Address allocation as a pure function: (blocks, request) -> (blocks', result). No IO."""
