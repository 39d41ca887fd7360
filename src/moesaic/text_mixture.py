"""A mixture whose members meet at text: each keeps its own vocabulary, and one finished answer is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moesaic.combiners import TextCombiner
from moesaic.members import Sampling, check_names, score_candidates, write_candidates
from moesaic.types import Candidate, Member, TextAnswer


class TextMixture:
    """Several models that answer as one, whatever their vocabularies.

    Args:
        members: The models, each with its tokenizer.
        combiner: How one answer is made of theirs, for instance :class:`moesaic.combiners.Rerank`.

    Raises:
        ValueError: If there is no member, two have one name, one has no tokenizer, or the combiner is not one of texts.

    Example:
        >>> from moesaic.combiners import Rerank
        >>> from moesaic.members import CausalLM
        >>> from moesaic.testing import tiny_causal_lm, tiny_tokenizer
        >>> cat = CausalLM("cat", tiny_causal_lm(seed=1), tiny_tokenizer())
        >>> dog = CausalLM("dog", tiny_causal_lm(seed=2), tiny_tokenizer(["a dog barks"]))
        >>> [answer] = TextMixture([cat, dog], Rerank()).generate(["the cat"], max_new_tokens=4)
        >>> answer.asked, answer.weights
        (('cat', 'dog'), {'cat': 0.5, 'dog': 0.5})
    """

    def __init__(self, members: Sequence[Member], combiner: TextCombiner) -> None:
        check_names([member.name for member in members])
        for member in members:
            if member.tokenizer is None:
                raise ValueError(
                    f"Member {member.name!r} has no tokenizer, so it cannot read or write text. Load it from a folder "
                    "that holds one."
                )
        if not isinstance(combiner, TextCombiner):
            raise ValueError(
                f"{combiner} combines logits, not texts. Use a text combiner, for instance moesaic.combiners.Rerank(), "
                "or moesaic.Mixture."
            )
        self.members = tuple(members)
        self.combiner = combiner

    @property
    def member_names(self) -> list[str]:
        """The members' names, in their order."""
        return [member.name for member in self.members]

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        num_candidates: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
        batch_size: int = 16,
    ) -> list[TextAnswer]:
        """Answer each prompt with one text, and say which member's it is and why.

        Args:
            prompts: What is continued.
            max_new_tokens: Number of tokens that each member writes at most, in its own tokens.
            num_candidates: Answers that each member gives to a prompt; more than one need a temperature.
            temperature: 0 always takes the likeliest token.
            seed: Makes the random choices.
            batch_size: Answers that a member writes, or scores, at a time.

        Returns:
            One answer a prompt.

        Raises:
            MemberError: If a member gives NaN.
            ValueError: If there are no prompts, one is empty, or a number is out of range.
        """
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"prompts must be a list of at least one text, got {prompts!r}.")
        for index, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(f"Prompt {index} is empty; give at least one character.")
        sampling = Sampling(max_new_tokens, num_candidates, temperature, seed, batch_size)
        return self.combiner.combine(prompts, _MemberPanel(self.members, sampling))

    def __repr__(self) -> str:
        return f"TextMixture([{', '.join(self.member_names)}], {self.combiner})"


class _MemberPanel:
    """The members, asked in one way; see :class:`moesaic.combiners.text.Panel`."""

    def __init__(self, members: Sequence[Member], sampling: Sampling) -> None:
        self._members = {member.name: member for member in members}
        self._sampling = sampling

    @property
    def num_parameters(self) -> Mapping[str, int]:
        return {
            name: sum(parameter.numel() for parameter in member.network.parameters())
            for name, member in self._members.items()
        }

    def ask(self, member: str, prompts: Sequence[str]) -> list[tuple[Candidate, ...]]:
        return write_candidates(self._members[member], prompts, self._sampling)

    def score(
        self, member: str, prompts: Sequence[str], candidates: Sequence[Sequence[Candidate]]
    ) -> list[tuple[float, ...]]:
        return score_candidates(self._members[member], prompts, candidates, batch_size=self._sampling.batch_size)
