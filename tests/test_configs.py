"""YAMLs: those that are shipped, those of the earlier example, what is refused, and bases."""

import re

import pytest
from omegaconf import OmegaConf

import tiny
from gm.config.load import load_config
from gm.errors import UserError


@pytest.mark.parametrize("path", sorted((tiny.ROOT / "configs").glob("*/*.yaml")), ids=lambda path: path.name)
def test_every_shipped_yaml_is_accepted(path):
    training = path.parent.name != "inference"
    config = load_config(str(path), training=training, inpainting="inpaint" in path.name)
    assert ("unet" in config.lora) == training
    assert config.trains_text_encoders == ("textencoder" in path.name)
    if training:
        assert config.optim.bias_correction and config.data.target_size % config.model.unet.downsampling == 0
        again = OmegaConf.create(config.raw)
        assert again.data.total_step == config.data.total_step


EARLIER = """
version: SDXL-base-1.0
model:
    target: gm.models.diffusion.DiffusionEngineDreamBooth
    params:
        scale_factor: 0.13025
        disable_first_stage_amp: True
        denoiser_config:
            target: gm.modules.diffusionmodules.denoiser.DiscreteDenoiser
            params:
                num_idx: 1000
                weighting_config: {target: gm.modules.diffusionmodules.denoiser_weighting.EpsWeighting}
                scaling_config: {target: gm.modules.diffusionmodules.denoiser_scaling.EpsScaling}
                discretization_config: {target: gm.modules.diffusionmodules.discretizer.LegacyDDPMDiscretization}
        network_config:
            target: gm.modules.diffusionmodules.openaimodel.UNetModel_lora
            params:
                adm_in_channels: 2816
                num_classes: sequential
                in_channels: 4
                out_channels: 4
                model_channels: 320
                attention_resolutions: [4, 2]
                num_res_blocks: 2
                channel_mult: [1, 2, 4]
                num_head_channels: 64
                use_spatial_transformer: True
                use_linear_in_transformer: True
                transformer_depth: [1, 2, 10]
                context_dim: 2048
                spatial_transformer_attn_type: vanilla
                legacy: False
                use_recompute: True
                lora_dim: 4
                lora_alpha: 4
                lora_dropout: 0.0
                lora_merge_weights: False
                only_save_lora: True
        conditioner_config:
            target: gm.modules.GeneralConditioner
            params:
                emb_models:
                    - is_trainable: False
                      input_key: txt
                      target: gm.modules.embedders.modules.FrozenCLIPEmbedder
                      params: {layer: hidden, layer_idx: 11, version: openai/clip-vit-large-patch14}
                    - is_trainable: False
                      input_key: txt
                      target: gm.modules.embedders.modules.FrozenOpenCLIPEmbedder2
                      params:
                          arch: ViT-bigG-14-Text
                          freeze: True
                          layer: penultimate
                          always_return_pooled: True
                          legacy: False
                          require_pretrained: False
                    - is_trainable: False
                      input_key: original_size_as_tuple
                      target: gm.modules.embedders.modules.ConcatTimestepEmbedderND
                      params: {outdim: 256}
                    - is_trainable: False
                      input_key: crop_coords_top_left
                      target: gm.modules.embedders.modules.ConcatTimestepEmbedderND
                      params: {outdim: 256}
                    - is_trainable: False
                      input_key: target_size_as_tuple
                      target: gm.modules.embedders.modules.ConcatTimestepEmbedderND
                      params: {outdim: 256}
        first_stage_config:
            target: gm.models.autoencoder.AutoencoderKLInferenceWrapper
            params:
                embed_dim: 4
                monitor: val/rec_loss
                ddconfig:
                    attn_type: vanilla
                    double_z: true
                    z_channels: 4
                    resolution: 256
                    in_channels: 3
                    out_ch: 3
                    ch: 128
                    ch_mult: [1, 2, 4, 4]
                    num_res_blocks: 2
                    attn_resolutions: []
                    dropout: 0.0
                    decoder_attn_dtype: fp16
                lossconfig: {target: mindspore.nn.Identity}
        sigma_sampler_config:
            target: gm.modules.diffusionmodules.sigma_sampling.DiscreteSampling
            params:
                num_idx: 1000
                discretization_config: {target: gm.modules.diffusionmodules.discretizer.LegacyDDPMDiscretization}
        loss_fn_config:
            target: gm.modules.diffusionmodules.loss.StandardDiffusionLoss
optim:
    base_learning_rate: 1.0e-4
    optimizer_config:
        target: mindspore.nn.AdamWeightDecay
        params: {beta1: 0.9, beta2: 0.999, weight_decay: 0.01}
data:
    per_batch_size: 1
    total_step: 1000
    num_parallel_workers: 2
    python_multiprocessing: False
    shuffle: True
    dataset_config:
        target: gm.data.dataset.Text2ImageDatasetDreamBooth
        params:
            target_size: 1024
            transforms:
                - target: gm.data.mappers.Resize
                  params: {size: 1024, interpolation: 3}
                - target: gm.data.mappers.Rescaler
                  params: {isfloat: False}
                - target: gm.data.mappers.AddOriginalImageSizeAsTupleAndCropToSquare
                - target: gm.data.mappers.Transpose
                  params: {type: hwc2chw}
"""


@pytest.fixture
def earlier(tmp_path):
    path = tmp_path / "earlier.yaml"
    path.write_text(EARLIER)
    return path


def test_a_yaml_of_the_earlier_example_runs_unchanged(earlier):
    config = load_config(str(earlier))
    ours = load_config(str(tiny.ROOT / "configs/training/sd_xl_base_finetune_dreambooth_lora_910b.yaml"))
    assert config.lora == ours.lora and config.model.unet.use_recompute
    assert config.model.vae == ours.model.vae and config.model.text_encoders == ours.model.text_encoders
    assert not config.optim.bias_correction and config.optim.eps == 1e-6  # exactly mindspore.nn.AdamWeightDecay
    assert config.data.target_size == 1024 and config.data.num_parallel_workers == 2


def test_set_overrides_and_is_checked_like_the_file(earlier):
    changed = load_config(str(earlier), ["data.total_step=20", "data.dataset_config.params.target_size=256"])
    assert changed.data.total_step == 20 and changed.data.target_size == 256  # the literal Resize size goes with it
    cosine = "optim.scheduler_config={target: gm.training.optim.Cosine, params: {warmup_steps: 5}}"
    assert load_config(str(earlier), [cosine]).optim.schedule == "cosine"
    for override, words in (
        ("data.total_stop=20", "unknown key 'data.total_stop', did you mean 'total_step'?"),
        ("data.total_step=many", "data.total_step must be a whole number, not 'many'"),
        ("data.total_step", "is not KEY=VALUE"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            load_config(str(earlier), [override])


NETWORK = "model.params.network_config"
BAD_SETTINGS = [
    (f"{NETWORK}.target=gm.models.unet.UNet", "model.params.network_config.target is 'gm.models.unet.UNet', did you mean"),
    (f"{NETWORK}.target=os.system", "accepted are"),
    (f"{NETWORK}.params.lora_dims=8", "unknown key 'model.params.network_config.params.lora_dims', did you mean 'lora_dim'?"),
    (f"{NETWORK}.params.lora_dim=four", "must be a whole number, not 'four'"),
    (f"{NETWORK}.params.lora_dim=0", "must be at least 1"),
    (f"{NETWORK}.params.lora_alpha=0", "must be above 0"),
    (f"{NETWORK}.params.lora_dropout=1", "must be below 1"),
    (f"{NETWORK}.params.legacy=true", "only False is supported"),
    (f"{NETWORK}.params.context_dim=1024", "the text encoders give 2048"),
    (f"{NETWORK}.params.transformer_depth=[1,2]", "give one for each level"),
    (f"{NETWORK}.params.spatial_transformer_attn_type=flash", "'vanilla' or 'flash-attention'"),
    ("data.dataset_config.params.target_size=1000", "target_size 1000 is not a multiple of 32: take 992 or 1024"),
    ("data.shuffle=1", "must be True or False, not 1"),
    ("optim.base_learning_rate=0", "must be above 0"),
    ("optim.optimizer_config.target=mindspore.nn.SGD", "optim.optimizer_config.target is 'mindspore.nn.SGD'"),
    ("model.params.conditioner_config.params.emb_models=[]", "emb_models must be the two text encoders"),
    ("model=null", "'model' is missing"),
    ("optim=null", "has no section 'optim'"),
]


@pytest.mark.parametrize("setting, words", BAD_SETTINGS)
def test_bad_settings(earlier, setting, words):
    with pytest.raises(UserError, match=re.escape(words)) as error:
        load_config(str(earlier), [setting])
    assert "\n" not in str(error.value)


def test_what_the_lora_of_all_networks_share():
    path = tiny.ROOT / "configs/training/tiny_dreambooth_textencoder_lora_cpu.yaml"
    config = load_config(str(path), [f"{NETWORK}.params.lora_dim=8"])
    assert {network: lora.rank for network, lora in config.lora.items()} == {
        "unet": 8,
        "text_encoder_1": 4,
        "text_encoder_2": 4,
    }
    with pytest.raises(UserError, match="go into one file: give all the same lora_merge_weights and only_save_lora"):
        load_config(str(path), [f"{NETWORK}.params.only_save_lora=False"])


@pytest.mark.parametrize(
    "content, words",
    [(None, "does not exist"), (b"a: [", "is not valid YAML"), (b"\xff\xfe\x00", "cannot be read|not valid"), (b"", "not a mapping"),
     (b"- 1", "not a mapping"), (b"a: ${b}", "b")],
)  # fmt: skip
def test_a_file_that_is_no_yaml(tmp_path, content, words):
    path = tmp_path / "a.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_config(str(path))


def test_a_misspelt_path_names_the_nearest(monkeypatch):
    monkeypatch.chdir(tiny.ROOT)
    with pytest.raises(UserError, match="did you mean configs/training/tiny_dreambooth_lora_cpu.yaml"):
        load_config("configs/training/tiny_dreambooth_lora_gpu.yaml")


# -- YAMLs that say what differs ------------------------------------------------------------------------------


def test_a_yaml_with_a_base_says_what_differs(earlier, tmp_path):
    (tmp_path / "folder").mkdir()
    middle, top = tmp_path / "folder" / "middle.yaml", tmp_path / "top.yaml"
    middle.write_text("base: ../earlier.yaml\ndata: {total_step: 7, dataset_config: {params: {target_size: 512}}}\n")
    encoder = "conditioner_config: {params: {emb_models: {0: {params: {layer_idx: 5}}}}}"
    network = "network_config: {params: {lora_dim: 8, channel_mult: [1, 2, 3]}}"
    top.write_text(f"base: folder/middle.yaml\nmodel: {{params: {{{encoder}, {network}}}}}\ndata: {{total_step: 9}}\n")
    size = "data.dataset_config.params.transforms=null"
    plain, config = load_config(str(earlier)), load_config(str(top), [size, "data.per_batch_size=3"])
    assert config.data.total_step == 9 and config.data.target_size == 512 and config.data.per_batch_size == 3
    assert config.model.unet.channel_mult == (1, 2, 3) and config.optim == plain.optim  # lists are replaced
    assert [encoder.layer_idx for encoder in config.model.text_encoders] == [5, 31]  # numbers change an item
    raw = OmegaConf.create(config.raw)
    assert "base" not in raw and raw.model.params.network_config.params.lora_dim == 8
    (tmp_path / "whole.yaml").write_text(config.raw)
    assert load_config(str(tmp_path / "whole.yaml")) == config  # what a run folder keeps needs no other file


def test_of_several_bases_the_later_counts_more(earlier, tmp_path):
    (tmp_path / "few.yaml").write_text("data: {total_step: 3}\n")
    (tmp_path / "top.yaml").write_text("base: [earlier.yaml, few.yaml]\n")
    config = load_config(str(tmp_path / "top.yaml"))
    assert config.data.total_step == 3 and config.model == load_config(str(earlier)).model


@pytest.mark.parametrize(
    "base, words",
    [
        ("nowhere.yaml", "top.yaml: its base .*nowhere.yaml does not exist"),
        (".", "its base .* cannot be read: it is no file but a folder"),
        ("top.yaml", "leads back to itself: .*top.yaml -> .*top.yaml"),
        ("circle.yaml", "leads back to itself: .*top.yaml -> .*circle.yaml -> .*top.yaml"),
        ("list.yaml", "its base .*list.yaml is not a mapping"),
        ("bad.yaml", "its base .*bad.yaml is not valid YAML"),
        ("3", "has the base 3: give the name of a YAML file"),
        ("[a.yaml, 3]", "has the base .*: give the name of a YAML file"),
        ("deep0.yaml", "is more than 8 files deep"),
        ("item.yaml", "changes item 9 of a list with 5"),
    ],
)
def test_a_base_that_cannot_be(earlier, tmp_path, base, words):
    (tmp_path / "circle.yaml").write_text("base: top.yaml\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "bad.yaml").write_text("a: [\n")
    for i in range(9):
        (tmp_path / f"deep{i}.yaml").write_text(f"base: deep{i + 1}.yaml\n")
    item = "model: {params: {conditioner_config: {params: {emb_models: {9: {is_trainable: True}}}}}}"
    (tmp_path / "item.yaml").write_text(f"base: earlier.yaml\n{item}\n")
    (tmp_path / "top.yaml").write_text(f"base: {base}\n")
    with pytest.raises(UserError, match=words) as error:
        load_config(str(tmp_path / "top.yaml"))
    assert "\n" not in str(error.value)


def test_the_version_is_the_yamls(earlier):
    assert load_config(str(earlier), version="SDXL-base-1.0").version == "SDXL-base-1.0"
    with pytest.raises(UserError, match="--version SDXL-2 was given, but --config .* is of SDXL-base-1.0"):
        load_config(str(earlier), version="SDXL-2")
