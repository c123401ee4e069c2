"""Settings of what is learned and where it goes, by topic: the main numbers, LoRA, text encoders, captions, shapes, masks."""

from gm.recipes.draft import DATASET, EMBEDDERS, UNET
from studio.recipe.fields import Field, field, is_one, is_there
from studio.recipe.tree import MASKS, TRAINS_TEXT, Tree, found
from studio.words import later

CAPTIONS = DATASET + "captions."
BUCKETS = DATASET + "buckets"
STEPS, RATE = "data.total_step", "optim.base_learning_rate"


def _of_text(name: str) -> tuple[str, ...]:
    """The key of both text encoders."""
    return tuple(f"{EMBEDDERS}{number}.params.{name}" for number in (0, 1))


def trains_text(tree: Tree) -> bool:
    """Whether the text encoders have a LoRA."""
    return any(found(tree, key) is True for key in TRAINS_TEXT)


_convolutions = is_one(UNET + "lora_targets", "all")
_buckets, _masks = is_there(BUCKETS), is_there(MASKS)

MAIN: tuple[Field, ...] = (
    field(
        STEPS,
        later("Updates"),
        later("How long it trains: optimizer updates. Too few learn nothing, too many copy the photos."),
    ),
    field(
        RATE,
        later("Learning rate"),
        later("How far an update goes: 1e-4 is common for SDXL with AdamW, 1 for Prodigy. Too large breaks the pictures."),
    ),
    field(
        UNET + "lora_dim",
        later("Rank"),
        later(
            "How much the LoRA can hold: 4 to 16 for a subject, up to 64 for a style. A larger one needs more memory and disk."
        ),
    ),
    field(
        UNET + "lora_alpha",
        later("Alpha"),
        later("The LoRA's change is times alpha / rank. Equal to the rank, or half of it, are common."),
    ),
    field(
        "data.per_batch_size",
        later("Photos at once"),
        later("In a batch, and as many class images. More needs more memory and makes updates calmer."),
    ),
    field(
        DATASET + "target_size",
        later("Size, pixels"),
        later("Photos are scaled and cut to this size. 1024 is SDXL's own; less is faster and coarser."),
    ),
)

LORA: tuple[Field, ...] = (
    field(
        UNET + "lora_targets",
        later("Layers with LoRA"),
        later(
            "attention: its projections. linear: all linear layers of the transformers. all: convolutions too (LoCon), for styles."
        ),
        choices=("attention", "linear", "all"),
    ),
    field(
        UNET + "lora_kind",
        later("Kind"),
        later("lora, or dora, which learns the length of each row of the weight by itself: closer, and slower."),
    ),
    field(
        UNET + "lora_rslora",
        later("Rank-stabilised (rsLoRA)"),
        later("The change is times alpha / root of the rank, so that large ranks learn as fast as small ones."),
    ),
    field(UNET + "lora_conv_dim", later("Rank of convolutions"), later("Empty: as of the others."), _convolutions),
    field(UNET + "lora_conv_alpha", later("Alpha of convolutions"), later("Empty: as of the others."), _convolutions),
    field(
        UNET + "lora_dropout",
        later("Dropout of inputs"),
        later("The share of the LoRA's inputs that is zeroed while training, against learning by heart; 0 is none."),
    ),
    field(
        UNET + "lora_neuron_dropout",
        later("Dropout of neurons"),
        later("The share of the outputs of A that is zeroed while training."),
    ),
    field(
        UNET + "lora_rank_dropout",
        later("Dropout of ranks"),
        later("The share of the ranks that a sample goes without while training."),
    ),
    field(
        UNET + "lora_module_dropout",
        later("Dropout of layers"),
        later("The probability that a layer's LoRA is left out of an update."),
    ),
)

TEXT: tuple[Field, ...] = (
    Field(
        TRAINS_TEXT,
        later("Train the text encoders as well"),
        later("LoRA in both text encoders. Faces and names can come out closer; it wants a smaller rate and more memory."),
    ),
    Field(
        _of_text("lora_dim"),
        later("Rank in the text encoders"),
        later("How much their LoRA can hold."),
        trains_text,
    ),
    Field(
        _of_text("lora_alpha"),
        later("Alpha in the text encoders"),
        later("Their LoRA's change is times alpha / rank."),
        trains_text,
    ),
    field(
        "optim.rates.text_encoder_1",
        later("Learning rate of text encoder 1"),
        later("A third to a tenth of the UNet's is common; 0 trains it not; empty: the learning rate of all."),
        trains_text,
    ),
    field(
        "optim.rates.text_encoder_2",
        later("Learning rate of text encoder 2"),
        later("As of the first."),
        trains_text,
    ),
    field(
        "optim.text_encoder_stop_share",
        later("Share of the run that they train"),
        later("After this share of the updates the text encoders stay as they are; 1 is to the end."),
        trains_text,
    ),
)

CAPTION: tuple[Field, ...] = (
    field(
        CAPTIONS + "trigger",
        later("Trigger word"),
        later("Stands in place of [trigger] in a caption, or in front of a caption without it."),
    ),
    field(CAPTIONS + "prefix", later("Words in front"), later("In front of every caption.")),
    field(CAPTIONS + "suffix", later("Words behind"), later("Behind every caption.")),
    field(
        CAPTIONS + "shuffle",
        later("Shuffle the tags"),
        later("The parts between commas come in another order every time."),
    ),
    field(CAPTIONS + "keep_tokens", later("Tags that stay in front"), later("So many are not shuffled or left out.")),
    field(
        CAPTIONS + "keep_tokens_separator",
        later("Mark behind the tags that stay"),
        later("Instead of their number, e.g. |||."),
    ),
    field(
        CAPTIONS + "tag_dropout",
        later("Dropout of tags"),
        later("The probability of each tag to be left out."),
    ),
    field(
        CAPTIONS + "dropout",
        later("Dropout of captions"),
        later("The probability of a whole caption to be empty; 0.05 is common for styles."),
    ),
    field(CAPTIONS + "separator", later("Between tags"), later("What parts the tags in a caption.")),
    field(
        CAPTIONS + "variants",
        later("Variants of a caption"),
        later("How many orders of the tags are kept, where tags are shuffled or left out."),
    ),
    field(
        DATASET + "max_tokens",
        later("Longest caption, tokens"),
        later("75 is CLIP's own; longer captions are encoded in pieces of 75."),
    ),
)

SHAPES: tuple[Field, ...] = (
    field(
        BUCKETS,
        later("Photos in their own shapes"),
        later("Wide and tall photos are trained as such (buckets), with about as many pixels; off: all are cut to squares."),
    ),
    field(
        BUCKETS + ".max_buckets",
        later("Most shapes"),
        later("Each shape is compiled once, which takes time at the start."),
        _buckets,
    ),
    field(
        BUCKETS + ".bucket_no_upscale",
        later("Enlarge no photo"),
        later("Small photos are trained in their own size."),
        _buckets,
    ),
    field(
        BUCKETS + ".bucket_reso_steps",
        later("Step of sides"),
        later("Sides are multiples of it; empty: as the model asks."),
        _buckets,
    ),
    field(BUCKETS + ".min_bucket_reso", later("Shortest side"), later("Pixels; empty: a quarter of the size."), _buckets),
    field(BUCKETS + ".max_bucket_reso", later("Longest side"), later("Pixels; empty: twice the size."), _buckets),
    field(
        DATASET + "transforms.2.params.crop",
        later("Place of the crop"),
        later("random: another one every time. center: always the middle."),
    ),
)

MASKING: tuple[Field, ...] = (
    field(
        MASKS,
        later("Masks count"),
        later("What a mask leaves black hardly counts in the loss. On by itself when a photo has a mask."),
    ),
    field(
        MASKS + ".unmasked_weight",
        later("Weight of what is masked out"),
        later("White is 1; 0.1 is common, and 0 can let the background go wild."),
        _masks,
    ),
    field(
        MASKS + ".normalise",
        later("A small subject counts as much"),
        later("Divides the loss by the mean of the mask."),
        _masks,
    ),
    field(
        MASKS + ".prior_weight",
        later("Keep what is masked out"),
        later("Holds it where the model without LoRA has it, with this weight: needs a second pass; not with text encoders."),
        _masks,
    ),
)

MEMORY: tuple[Field, ...] = (
    field(
        UNET + "use_recompute",
        later("Less memory, more time"),
        later("The backward pass computes blocks once more."),
    ),
    field(
        UNET + "spatial_transformer_attn_type",
        later("Attention"),
        later("flash-attention is Ascend 910B's fused one; vanilla runs everywhere."),
    ),
    field("data.num_parallel_workers", later("Threads that read photos"), later("More read faster where the disk is slow.")),
    field("data.shuffle", later("Shuffle the photos"), later("They come in another order in every epoch.")),
)
