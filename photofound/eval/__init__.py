"""How good a model is.

Each file imports only files above it:

    metrics     figures of a picture beside the truth
    protocols   which photographs, which holes, what is true
    methods     who is asked: our models, classical methods, other pipelines
    evaluation  all problems, all methods, figures with intervals
    report      Markdown, JSON and a page
    blind       two methods without names, for a person to judge
"""
