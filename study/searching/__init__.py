"""A search: what to train next, the loop that has it trained, and what it keeps."""
