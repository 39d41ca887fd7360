"""Models, or mixtures of some, with all that they need to answer the rows of a task with text: one kind a file."""

from moesaic.answering.answerer import ANSWERERS, Answered, Answerer, load_answerer, read_description
from moesaic.answering.routed_writing import RoutedWritingAnswerer, router_text
from moesaic.answering.sentences import SentenceAnswerer
from moesaic.answering.spans import SpanAnswerer
from moesaic.answering.writing import WritingAnswerer

__all__ = [
    "ANSWERERS",
    "Answered",
    "Answerer",
    "RoutedWritingAnswerer",
    "SentenceAnswerer",
    "SpanAnswerer",
    "WritingAnswerer",
    "load_answerer",
    "read_description",
    "router_text",
]
