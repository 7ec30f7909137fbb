"""CNI protocol shim over the agent client. Room kept for the CNI issue."""
