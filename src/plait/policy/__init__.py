"""Rules and labels to a neutral ruleset, and what they mean. No nft words and no IO."""
