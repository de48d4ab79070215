"""What the boards ask, as Prometheus gets it, and what an expression is made of.

Held here: filling in Grafana's variables, and the names in an expression. No test is here.
"""

from __future__ import annotations

from typing import NamedTuple

import promql_parser

from deploy.grafana.panels import BOARDS


class Asked(NamedTuple):
    """One expression of a board, with the board's variables filled in."""

    board: str
    panel: str
    expression: str

    def __str__(self) -> str:
        """What a test that fails calls it."""
        return f"{self.board} / {self.panel}: {self.expression}"


def filled(expression: str, rate_interval: str) -> str:
    """An expression as Grafana sends it with everything chosen."""
    for variable, value in {"$__rate_interval": rate_interval, "$provider": ".*", "$model": ".*"}.items():
        expression = expression.replace(variable, value)
    return expression


def queries(rate_interval: str = "5m") -> list[Asked]:
    """Every expression of every board."""
    return [
        Asked(board.title, panel.title, filled(query.expression, rate_interval))
        for board in BOARDS for panel in board.panels for query in panel.queries
    ]


def selected(expression: str) -> list[tuple[str, set[str]]]:
    """The metrics of an expression with the labels that it names of each. Raises ValueError for nonsense.

    A label that is only grouped by counts for every metric.
    """
    found: list[tuple[str, set[str]]] = []
    grouped: set[str] = set()

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.MatrixSelector):
            visit(node.vector_selector)
        elif isinstance(node, promql_parser.VectorSelector):
            found.append((node.name or "", {matcher.name for matcher in node.matchers.matchers}))
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            grouped.update(node.modifier.labels)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return [(name, labels | grouped) for name, labels in found]
