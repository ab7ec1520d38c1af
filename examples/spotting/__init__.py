"""Keyword spotting in few bits: sounds made up here, a small state-free model, integer inference.

The command on top is `examples/kws.py`.
"""
