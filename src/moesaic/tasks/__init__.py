"""One file a task: its losses and what it is measured by."""

from moesaic.tasks.chat import chat_prompt
from moesaic.tasks.generative import (
    GENERATIVE_TASKS,
    Answers,
    GenerativeTask,
    Measured,
    compare_means,
    read_task,
    write_task,
)
from moesaic.tasks.language_modeling import next_token_loss, next_token_nats
from moesaic.tasks.linear_cross_entropy import linear_cross_entropy
from moesaic.tasks.question_answering import QuestionAnswering
from moesaic.tasks.questions import Question, QuestionCounts, count_questions, read_question, read_questions
from moesaic.tasks.spans import NO_ANSWER, SpanAnswer, SpanWindows, best_spans, tokenize_spans
from moesaic.tasks.squad import answer_f1, exact_match, normalize_answer
from moesaic.tasks.temperature import fit_temperature
from moesaic.tasks.translation import Translation

__all__ = [
    "GENERATIVE_TASKS",
    "NO_ANSWER",
    "Answers",
    "GenerativeTask",
    "Measured",
    "Question",
    "QuestionAnswering",
    "QuestionCounts",
    "SpanAnswer",
    "SpanWindows",
    "Translation",
    "answer_f1",
    "best_spans",
    "chat_prompt",
    "compare_means",
    "count_questions",
    "exact_match",
    "fit_temperature",
    "linear_cross_entropy",
    "next_token_loss",
    "next_token_nats",
    "normalize_answer",
    "read_question",
    "read_questions",
    "read_task",
    "tokenize_spans",
    "write_task",
]
