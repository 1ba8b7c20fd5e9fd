"""How good a model is: ``photofound eval``.

Each file imports only files above it:

    metrics      PSNR, SSIM, LPIPS-like distance, FID, KID, seams, object growth, intervals
    photographs  the photographs of an evaluation: folders and published test sets
    protocols    which holes and enlargements are asked for, and the known truth
    methods      photofound's models, classical methods, diffusers pipelines
    run          every method on every problem, measured
    summary      figures with intervals, differences between methods
    report       Markdown, JSON and an HTML page
    blind        two methods without names, for a person to choose from
"""
