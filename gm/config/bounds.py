"""The largest numbers that flags, YAMLs and prompt files take, each with its reason. What memory allows is less, and is known
where a network is; these keep arithmetic from overflowing and lists from filling the memory."""

LARGEST_SEED = 2**64 - 1  # 64 bits, as other tools write them into pictures
LARGEST_SIDE = 4096  # pixels of a picture; above it the decoder's arrays have more elements than 31 bits count
LARGEST_TOLD = 100_000  # pixels of the sizes that SDXL is told
MOST_STEPS = 1000  # of a sampler: there are as many noise levels
STRONGEST = 1000.0  # guidance, or scale of a LoRA: what is larger gives no picture
MOST_COLUMNS = 1000  # pictures of a prompt: they are all on one sheet
MOST_PROMPTS = 1000  # of a file: their embeddings are all kept
MOST_AT_ONCE = 1024  # samples in a batch
MOST_ACCUMULATED = 10_000  # micro-batches of an update
MOST_UPDATES = 10_000_000  # of a run
MOST_IMAGES = 100_000  # in a folder of class images
MOST_REPEATS = 100_000  # of a photo in an epoch
MOST_SAMPLES = 1_000_000  # photos times repeats of an epoch, whose order is drawn at once
LARGEST_RANK = (
    2048  # of a LoRA: the widest layer that it is put beside in SDXL has as many inputs but for the feed-forward ones
)
LARGEST_RATE = 100.0  # learning rate: Prodigy's is 1
