"""Plait: one address, one name and one set of rules for every container on every host."""

__version__ = "0.1.0"
