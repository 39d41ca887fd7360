"""One file a task: its losses and what it is measured by."""

from moesaic.tasks.chat import (
    CHAT_TAGS,
    CHAT_TEMPLATE,
    Message,
    chat_prompt,
    encode_prompts,
    end_of_turn,
    tokenize_chats,
)
from moesaic.tasks.conversation import Chat
from moesaic.tasks.cutting import CutPolicy, DocumentsCut, cut_documents
from moesaic.tasks.documents import Document, summarization_prompt
from moesaic.tasks.extractive import SummaryLength, greedy_oracle, lead, overlap, pick_sentences
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
from moesaic.tasks.multiple_choice import MultipleChoice
from moesaic.tasks.question_answering import QuestionAnswering, question_of
from moesaic.tasks.questions import Question, QuestionCounts, count_questions, read_question, read_questions
from moesaic.tasks.rouge import Rouge, mean_rouge, rouge
from moesaic.tasks.sentences import centrality, similarity_to, split_sentences, words_of
from moesaic.tasks.spans import NO_ANSWER, SpanAnswer, SpanWindows, best_spans, tokenize_spans
from moesaic.tasks.squad import answer_f1, exact_match, normalize_answer
from moesaic.tasks.summarization import Summarization, document_of
from moesaic.tasks.task_set import ONLY, TaskSet, task_tag
from moesaic.tasks.temperature import fit_temperature
from moesaic.tasks.translation import TEMPLATE as TRANSLATION_TEMPLATE
from moesaic.tasks.translation import Translation

__all__ = [
    "CHAT_TAGS",
    "CHAT_TEMPLATE",
    "GENERATIVE_TASKS",
    "NO_ANSWER",
    "ONLY",
    "TRANSLATION_TEMPLATE",
    "Answers",
    "Chat",
    "CutPolicy",
    "Document",
    "DocumentsCut",
    "GenerativeTask",
    "Measured",
    "Message",
    "MultipleChoice",
    "Question",
    "QuestionAnswering",
    "QuestionCounts",
    "Rouge",
    "SpanAnswer",
    "SpanWindows",
    "Summarization",
    "SummaryLength",
    "TaskSet",
    "Translation",
    "answer_f1",
    "best_spans",
    "centrality",
    "chat_prompt",
    "compare_means",
    "count_questions",
    "cut_documents",
    "document_of",
    "encode_prompts",
    "end_of_turn",
    "exact_match",
    "fit_temperature",
    "greedy_oracle",
    "lead",
    "linear_cross_entropy",
    "mean_rouge",
    "next_token_loss",
    "next_token_nats",
    "normalize_answer",
    "overlap",
    "pick_sentences",
    "question_of",
    "read_question",
    "read_questions",
    "read_task",
    "rouge",
    "similarity_to",
    "split_sentences",
    "summarization_prompt",
    "task_tag",
    "tokenize_chats",
    "tokenize_spans",
    "words_of",
    "write_task",
]
