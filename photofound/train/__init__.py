"""What every training shares.

Each file imports only files above it:

    losses       alignment, perceptual and adversarial losses, token routing
    consistency  few-step students: the jump, its targets, its loss
    distributed  the processes of a run: one, DDP, FSDP2, HSDP
    optim        AdamW, Muon, schedules
    ema          the moving average of weights
    checkpoint   checkpoints of one process or many
    trainer      the loop
    estimate     what a run will take: the dry run
"""
