"""The public benchmark of explanations (docs/faithfulness.md): events, predictions, scores and baselines."""
