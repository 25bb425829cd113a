"""The accelerated incremental solver and the rule of the weight: arrays and callables in, arrays out."""

from aetlab.solve.fista import Solution, State, Stopping, converged, minimize
from aetlab.solve.weight_rule import rule_weight

__all__ = ["Solution", "State", "Stopping", "converged", "minimize", "rule_weight"]
