"""Members that answer what they are told to, so that expected choices can be worked out by hand."""

from moesaic.types import Candidate


def candidate(member, text, *, log_probability=-1.0, num_tokens=1, margin=0.0, entropy=0.0, is_finished=True):
    return Candidate(text, member, log_probability, num_tokens, margin, entropy, is_finished=is_finished)


class WrittenPanel:
    """A panel in writing.

    Args:
        answers: For each member and each prompt, what it answers: candidates, or their texts.
        sizes: Number of parameters of each member.
        opinions: For each member, the log-probability that it gives each text.
    """

    def __init__(self, answers, *, sizes=None, opinions=None):
        self.answers = answers
        self.num_parameters = sizes or dict.fromkeys(answers, 1)
        self.opinions = opinions
        self.questions = []

    def ask(self, member, prompts):
        self.questions.append((member, tuple(prompts)))
        given = [self.answers[member][prompt] for prompt in prompts]
        return [tuple(one if hasattr(one, "text") else candidate(member, one) for one in each) for each in given]

    def score(self, member, prompts, candidates):
        return [tuple(self.opinions[member][one.text] for one in each) for each in candidates]
