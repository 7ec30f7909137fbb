"""Services: objects in, `ServiceTable` out. Pure; knows no nft words and does no IO."""
