"""OpenStack ML2 driver. Room kept for the OpenStack issue."""
