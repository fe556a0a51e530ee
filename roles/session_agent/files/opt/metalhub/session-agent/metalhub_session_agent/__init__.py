"""The session agent of a compute node: it gives back the memory of paused sessions, and tells what all of them use.

Standard library only, Python 3.9 or newer.
"""
