"""What export writes."""

from moesaic.formats.huggingface import check_same, export, export_checkpoint
from moesaic.formats.model_card import model_card

__all__ = ["check_same", "export", "export_checkpoint", "model_card"]
