"""The Container Network Interface on the wire (specification 1.1.0), both ways:

call.py is what a runtime asks, checked; wanted.py what it says of the workload in its various
places; result.py what plugins answer, in each version; errors.py why not.
"""
