"""What every training shares.

Each file imports only files above it:

    idle         settings that do nothing, which are refused
    settings     options that several stages share, their defaults and help
    losses       alignment (REPA), perceptual (LPIPS) and adversarial losses, token routes (TREAD)
    consistency  few-step students: the jump, its targets, its loss
    contract     what the loop asks of a stage
    distributed  the processes of a run: one, DDP, FSDP2, HSDP
    fewer_bits   frozen weights in bfloat16, int8, NF4
    swap         frozen weights that travel between the CPU and the device
    frugal       AdamW with moments of eight bits, or on the CPU
    float8       products in eight bits
    recompute    activation checkpointing
    muon         Muon, whose work the processes share
    untuned      Prodigy, schedule-free AdamW
    optim        the optimizers of a run, schedules
    ema          the moving average of weights
    checkpoint   checkpoints, whole
    shards       checkpoints in shards, written while training goes on
    gauges       energy and load of the devices
    history      the record of a run, for the model's card
    log          metrics.jsonl, the terminal, the trackers
    pace         speed, energy and CO2 of an update
    batches      micro-batches, the next ones while the GPU works
    disk         what a run writes, and whether there is room
    trainer      the loop
    hub          a run's model on the Hub
    price        what GPU hours cost: money, energy, carbon
    estimate     what a run will take: the dry run
    memory       what a step takes on a GPU, counted without one
    annotate     captions, mattes, embeddings and latents for a collection
    build        the pipeline that a training starts from
    mix          batches in which tasks are mixed: crops, conditions, targets
    recipe       published additions to the loss: TREAD, REPA, LPIPS, P-DINO
    lora         LoRA and DoRA: new, or from a file; saved; merged
    end_to_end   REPA-E: the autoencoder is trained, too
    plan         what a run on the transformer costs, by its configuration alone
    plan_distilled  what a distillation costs
    prompts      pictures of the same prompts as a run goes on
    stage        EditStage: the stage of pretraining, fine-tuning, preferences, distillation; dropout of text
    adapt        AdaptedStage: a LoRA, a head or all weights of a trained model
"""
