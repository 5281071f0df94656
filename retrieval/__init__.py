"""From a model and the day's tables to candidate tables: embed, index, neighbours, candidates."""
