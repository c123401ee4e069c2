"""What stands in the text chunks of pictures."""

from gm.config.types import SampleSettings
from gm.options.sample import SampleOptions


def in_words(settings: SampleSettings) -> dict[str, object]:
    """How a picture is sampled, for its text chunks."""
    return {
        "sampler": settings.sampler,
        "steps": settings.steps,
        "guider": settings.guider,
        "guidance_scale": settings.guidance_scale,
        "discretization": settings.discretization,
        "size": f"{settings.width}x{settings.height}",
        "sizes": ",".join(str(number) for number in settings.sizes),
    }


def about(options: SampleOptions, settings: SampleSettings, prompt: str, seed: int) -> dict[str, object]:
    """What goes into a PNG's text chunks: enough to make it again."""
    return {
        "prompt": prompt,
        "negative_prompt": options.negative_prompt,
        "seed": seed,
        **in_words(settings),
        "weight": options.weight,
        **({"vae": options.vae} if options.vae else {}),
        **({"max_tokens": options.max_tokens} if options.max_tokens else {}),
        **({"lora_scale": ",".join(f"{scale:g}" for scale in options.lora_scale)} if options.lora_scale else {}),
    }
