"""Classification by the language model with a linear head in place of an answer in words."""
