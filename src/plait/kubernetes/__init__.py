"""Kubernetes objects to Plait objects. Room kept for the Kubernetes issue."""
