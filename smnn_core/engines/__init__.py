"""Engines: ways to eliminate the same least-squares problem. They know nothing of gradients or frameworks."""
