"""Fine-tuning: from a model's inventory and the settings of a run to the terms of each card, limits and advice."""
