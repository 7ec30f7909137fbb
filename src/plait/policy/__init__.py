"""Rules and labels to a neutral ruleset. No nft words and no IO. Room kept for the policy issue."""
