"""The loss and the noise of sd-scripts' settings -> this suite's."""

from gm.recipes.draft import TIMESTEPS, Draft, Settings
from gm.recipes.parts import put_loss, put_prediction, put_weighting


def put_all_of_loss(settings: Settings, draft: Draft) -> None:
    """What is predicted, how noise levels count, and what is made of an error."""
    v, zero = settings.flag("v_parameterization"), settings.flag("zero_terminal_snr")
    words = put_prediction(draft, v, zero)
    settings.taken("v_parameterization", words)
    if zero and not v:
        settings.unsupported("zero_terminal_snr", "teaches nothing at the last level where the noise is predicted: off")
    settings.taken("zero_terminal_snr", words if zero else "off, as here")
    gamma = settings.number("min_snr_gamma", float, 0.0)
    debiased, like_noise = settings.flag("debiased_estimation_loss"), settings.flag("scale_v_pred_loss_like_noise_pred")
    if gamma and debiased:
        settings.unsupported("debiased_estimation_loss", "both weights at once: min-SNR alone")
    if gamma:
        words = put_weighting(draft, "MinSNRWeighting", gamma)
    elif debiased:
        words = put_weighting(draft, "DebiasedWeighting")
    else:
        words = put_weighting(draft, "VWeighting" if v and not like_noise else "EpsWeighting")
    settings.taken("min_snr_gamma", words if gamma else "off, as here")
    settings.taken("debiased_estimation_loss", words if debiased else "off, as here")
    if like_noise and v and gamma:
        settings.unsupported("scale_v_pred_loss_like_noise_pred", "not together with min-SNR: left out")
    settings.taken("scale_v_pred_loss_like_noise_pred", words if like_noise and v else "off, as here")
    if settings.number("v_pred_like_loss", float, 0.0):
        settings.unsupported("v_pred_like_loss", "nothing is added to the loss")
    settings.off("v_pred_like_loss")
    loss = settings.text("loss_type") or "l2"
    if loss in ("l2", "huber", "smooth_l1"):
        settings.taken("loss_type", put_loss(draft, "loss_type", loss) if loss != "l2" else "l2, as here")
        if loss != "l2":
            put_loss(draft, "huber_c", settings.number("huber_c", float, 0.1))
            put_loss(draft, "huber_schedule", settings.text("huber_schedule") or "snr")
    else:
        settings.unsupported("loss_type", "l2 instead")
    settings.taken(
        ["huber_c", "huber_schedule"], "as given" if loss in ("huber", "smooth_l1") else "acts with huber losses alone"
    )
    if settings.number("huber_scale", float, 1.0) != 1 and loss != "l2":
        settings.unsupported("huber_scale", "1 instead")
    settings.taken("huber_scale", "1, as here" if loss != "l2" else "acts with huber losses alone")


def put_noise(settings: Settings, draft: Draft) -> None:
    """Which noise, and at which levels."""
    offset, iterations = settings.number("noise_offset", float, 0.0), settings.number("multires_noise_iterations", int, 0)
    discount, perturbed = settings.number("multires_noise_discount", float, 0.3), settings.number("ip_noise_gamma", float, 0.0)
    if offset:
        settings.taken("noise_offset", put_loss(draft, "offset_noise_level", offset))
    if iterations:
        words = put_loss(draft, "multires_noise_iterations", iterations)
        settings.differs("multires_noise_iterations", f"{words}; divided by each sample's own deviation, not the batch's")
        settings.taken("multires_noise_discount", put_loss(draft, "multires_noise_discount", discount))
    if perturbed:
        settings.taken("ip_noise_gamma", put_loss(draft, "input_perturbation", perturbed))
    settings.off(["noise_offset", "multires_noise_iterations", "ip_noise_gamma"])
    settings.taken("multires_noise_discount", "acts with multires_noise_iterations alone")
    random = ["noise_offset_random_strength", "ip_noise_gamma_random_strength"]
    for name in random:
        if settings.flag(name):
            settings.unsupported(name, "always the whole strength, not a random part of it")
    settings.off(random)
    if settings.number("adaptive_noise_scale", float, 0.0) and offset:
        settings.unsupported("adaptive_noise_scale", "the offset does not grow with the latent's mean: noise_offset alone")
    settings.taken("adaptive_noise_scale", "off, as here")
    least, most = settings.number("min_timestep", int, 0), settings.number("max_timestep", int, 1000) or 1000
    for name, value, usual in (("min_timestep", least, 0), ("max_timestep", most, 1000)):
        if value != usual:
            draft.put(TIMESTEPS + name, value)
        settings.taken(name, f"sigma_sampler_config: {name}: {value}")
