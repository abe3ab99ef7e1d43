"""Fleets: how many replicas of a plan a load needs, from formulas of queues, checked by a simulation."""
