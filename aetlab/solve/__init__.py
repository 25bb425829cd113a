"""The accelerated incremental solver and the rule of the weight: arrays and callables in, arrays out."""

from aetlab.solve.fista import Solution, State, converged, minimize
from aetlab.solve.weight_rule import rule_weight

__all__ = ["Solution", "State", "converged", "minimize", "rule_weight"]
