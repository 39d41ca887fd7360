import re

import pytest
import torch

from moesaic.tasks import fit_temperature


def drawn(temperature, num_rows=4000):
    """Scores, and answers drawn from what they say at a temperature."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(num_rows, 6, generator=generator)
    return logits, torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator).squeeze(1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_at_which_answers_were_drawn_is_found(temperature):
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.1)


def test_no_row_is_refused():
    sentence = re.escape("A temperature is fitted on held-out rows, and there are none. Set some aside.")
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
