"""Revisioned key-value stores behind one Protocol (`base.Store`).

Every one passes tests/contract.
"""
