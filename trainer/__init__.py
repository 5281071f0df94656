"""samples -> model: two towers trained with a base loss and contrastive objectives, by one process or many."""
