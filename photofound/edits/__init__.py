"""What an edit is, and what it does to pixels without a network.

Each file imports only files above it:

    geometry     margins, boxes, tiles
    masks        masks to train on, growing, cutting a subject out
    regions      which holes are worked on together
    matting      a rough cut-out made fine: outline, soft edge, the subject's own colours
    composite    harmonic filling, seams closed on the generated side, back-projection
    degradation  photographs made worse, to train upscaling on
    exemplar     holes filled from the photograph's own patches, at any size
    task         Condition, Job, the contract of a task, get_task
    request      what somebody asks for, from whichever entry
    collage      objects on other grounds, to train cut-outs on
    reference    pictures of wanted surfaces: a user's, and crops to train on
    colours      what a ground's colour is called, and grounds of other colours
    surfaces     wood, marble, linen, ... drawn in code, and the words for them
    grounds      a product's place on a surface: shadow, light, grain
"""
