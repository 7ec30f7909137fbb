"""Revisioned key-value stores behind one Protocol (`base.Store`); every one passes tests/contract."""
