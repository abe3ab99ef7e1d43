"""The nouns: frozen slotted dataclasses that hold facts and compute nothing but their own sums."""
