"""API client and agent client: one transport seam, used by the CLI and by every shim."""
