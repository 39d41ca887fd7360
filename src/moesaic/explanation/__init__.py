"""What the router does and why, as data and as a page."""

from moesaic.explanation.answer import Answer, generate
from moesaic.explanation.conversation import chat
from moesaic.explanation.report import write_report
from moesaic.explanation.routing_map import RoutingMap, map_routing

__all__ = ["Answer", "RoutingMap", "chat", "generate", "map_routing", "write_report"]
