"""Docker's plugin protocol and events, translated to agent calls.

Touches neither kernel nor store.
"""
