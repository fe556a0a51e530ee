"""The egress service of a compute node: it decides for the proxy, and knows what was refused.

Standard library only, Python 3.9 or newer.
"""
