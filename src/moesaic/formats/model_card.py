"""The card that goes with a checkpoint: what it is made of, how good it is, how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moesaic.moe.card import MEASURED, card_opening

_CARD = """\
---
library_name: transformers
tags: [moesaic, mixture-of-experts]
---

# {title}

{opening}

{needs}:

```python
{imports}from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")  # this folder
tokenizer = AutoTokenizer.from_pretrained(".")  # this folder
inputs = tokenizer("Hello", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=32)[0]))
```

{measured}

{verdict}

{table}
Loss in nats per token on documents that no model was trained on, with 95% bootstrap intervals over documents; `total`
and `active` count parameters, `trained on` counts tokens.

## How it was made

{versions}.

```yaml
{recipe}```
"""

_ORDINARY = "It is an ordinary Transformers checkpoint; moesaic is not needed to use it"
_CHOSEN = "Its routers choose experts in a way that Transformers does not know, so moesaic is needed to use it"


def model_card(
    *,
    title: str,
    experts: Sequence[str],
    top_k: int | None,
    verdict: str,
    table: str,
    versions: Mapping[str, str],
    recipe: str,
) -> str:
    """The README.md of a checkpoint.

    Args:
        title: Its headline.
        experts: The experts' names.
        top_k: Experts that work on each token; ``None`` where the model's routers choose in a way of their own, so that
            it loads where ``moesaic.moe`` is imported.
        verdict: What won in the arena.
        table: The arena's table, in Markdown.
        versions: What it was made with.
        recipe: The recipe, verbatim.
    """
    return _CARD.format(
        title=title,
        opening=card_opening(experts, top_k),
        measured=MEASURED,
        needs=_CHOSEN if top_k is None else _ORDINARY,
        imports="import moesaic.moe  # makes this kind of router known to Transformers\n" if top_k is None else "",
        verdict=verdict,
        table=table,
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        recipe=recipe if recipe.endswith("\n") else recipe + "\n",
    )
