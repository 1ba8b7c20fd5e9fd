"""The record of how a model was made, and its model card.

Each file imports only files above it:

    rates       prices, powers, peaks of data sheets, the grid's carbon
    record      data, hours, hardware and settings of every training
    facts       components, cost, energy and data as the card shows them
    evaluation  a report's tables, where the model is better or worse than others
    card        the model card, by huggingface_hub and the template card.md
"""
