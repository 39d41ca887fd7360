"""What the exported mixture of a task says of itself to whoever finds it."""

from __future__ import annotations

from moesaic.arena import TaskTable
from moesaic.recipe.load import LoadedRecipe
from moesaic.recipe.stage_work import versions
from moesaic.recipe.task_schema import TaskRecipe
from moesaic.tasks import ONLY, TaskSet


def task_card(loaded: LoadedRecipe[TaskRecipe], tasks: TaskSet, library: str, table: TaskTable) -> str:
    """The model card of a finished run.

    Args:
        loaded: The recipe.
        tasks: What the mixture does.
        library: What loads it.
        table: How it compares.
    """
    names = [name for name in tasks.tasks if name != ONLY]
    return _CARD.format(
        asked=f'task="{names[0]}", ' if names else "",
        title=loaded.name,
        task=", ".join(tasks.words),
        library=library,
        experts=", ".join(loaded.recipe.domain_names),
        verdict=table.verdict(),
        table=table.to_markdown(),
        versions=", ".join(f"{package} {number}" for package, number in versions().items()),
        recipe=loaded.text,
    )


_CARD = """\
---
library_name: {library}
tags: [moesaic, mixture-of-experts, {task}]
---

# {title}

A mixture of {experts}, made with [moesaic](https://pypi.org/project/moesaic) for {task}: a router reads each source and
chooses one expert, which alone reads and answers it.

```python
import moesaic

print(moesaic.generate(".", "...", {asked}fields={{}}))  # this folder; fields: what a row has beside its text
```

## How it compares

{verdict}

{table}
## How it was made

{versions}.

```yaml
{recipe}```
"""
