"""What an edit is, and what it does to pixels without a network.

Each file imports only files above it:

    geometry     margins, boxes, tiles
    masks        random masks to train on, growing masks, cutting a subject out
    regions      which holes are painted together, and at which size
    ground       the colour of an even ground
    guided       a matte along a picture's edges, by the colours around each pixel
    closed_form  a matte from what is known of it, by the colours
    strands      hair and threads before an even ground
    matting      from a rough cut-out to a fine one: outline, soft edge, the subject's own colours
    segmenter    what a segmenter is, what it may be told, and how it is asked
    effects      the shadow that a thing throws, found in a photograph
    subject      the subject of a photograph: given, by alpha, or found
    composite    harmonic filling, closing the seam on the generated side, back-projection
    registration  where a model has moved or tinted what it was given, and how that is undone
    degradation  photographs made worse, to train upscaling on
    exemplar     holes filled from the photograph's own patches, at any size
    condition    what a model is given, and what it is trained on
    inputs       what a task asks of its user, and the text that each kind takes
    task         Job, the contract of a task, get_task
    request      what somebody asks for, from whichever entry
    recipe       how a result was made: written into its metadata, and read
    proof        whether a photograph was kept: a result held against what it was made from
    collage      objects on other grounds, to train cut-outs on
    reference    reference pictures of a surface: a user's, and crops to train on
    colours      names of background colours, and backgrounds in other colours
    scores       how good a result looks, without a truth
    noise        noise on a rectangle of a material
    materials    wood, marble, linen, ... from noise; Surface: a material in a colour
    surface_words    the surface that a prompt names
    surfaces     photographs of surfaces, drawn in code
    shadow       the shadow of a subject
    staging      a product on a surface: where it stands, its light, grain
    placement    where on a canvas a subject goes, and how large
    background   a colour, picture, surface or blur behind a placed subject
    packshot     the layers of a packshot: background, shadow, reflection, subject
    presets      what marketplaces ask for, as YAML
    check        what a marketplace would refuse of a file
"""
