"""The control plane: REST, watch, certificate authority, authorisation. Holds no kernel state."""
