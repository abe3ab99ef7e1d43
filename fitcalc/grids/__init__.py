"""Sweeps: every combination of models, quantizations, engines, devices, contexts and concurrencies as arrays.

The formulas are those of a single answer: an engine's ledgers take arrays of contexts and requests as they take two
numbers. This is the only package that imports numpy. A grid is cut into blocks (one prepared plan each) and these into
pieces that fit a core's cache; pieces are independent, so that any executor may compute them.
"""
