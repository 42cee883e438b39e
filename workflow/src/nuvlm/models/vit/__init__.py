"""Classification by the vision tower of the language model's base, without language: a linear head on its patches."""
