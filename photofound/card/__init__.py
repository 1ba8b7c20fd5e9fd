"""What is remembered of how a model was made, and its card.

Each file imports only files above it:

    record  the facts: data, hours, hardware, settings of each training
    card    the card that is written from them
"""
