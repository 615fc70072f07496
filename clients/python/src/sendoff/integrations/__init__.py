"""One framework a file. Each opens with what it may and may not do to its host."""
