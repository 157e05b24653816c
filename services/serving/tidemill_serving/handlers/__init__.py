"""What goes on beside the requests: micro-batches, following topics, taking releases."""
