"""Tiny diffusers pipelines, each with one short call that gives the same numbers every time.

``PIPELINES[name]`` is a `Case`: ``case.build()`` makes the pipeline in process (the world's towers, so that shipped
encoders fit; a second text tower is the world's plus a little noise; everything else random, seeded), and
``case.call(pipe)`` runs it. Every one survives ``save_pretrained`` and ``type(pipe).from_pretrained``, bit for bit.
"""

from __future__ import annotations

import diffusers
import numpy as np
import torch
import transformers
from tiny import (
    PROMPT,
    UNET,
    UNSAFE,
    WIDTH,
    Case,
    ddim,
    images,
    mask,
    picture,
    seeded,
    silent,
    t5,
    t5_tokenizer,
    text,
    unet,
    vae,
    vision,
)

from safeencoders.pictoworld import models

__all__ = ["PIPELINES", "PROMPT", "UNSAFE", "Case", "picture", "seeded", "silent", "text", "vision"]
TEXT, VISION = "text", "vision"


def _sd(kind, *, channels=4, **extra):
    parts = {
        "vae": vae(),
        "text_encoder": text(),
        "tokenizer": models.tokenizer(),
        "unet": unet(channels),
        "scheduler": ddim(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    return kind(**(parts | extra))


def _checker():
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        vision_config=small | {"image_size": 32, "patch_size": 16}, text_config=small, projection_dim=8
    )
    checker = diffusers.pipelines.stable_diffusion.safety_checker.StableDiffusionSafetyChecker(config)
    checker.concept_embeds_weights.data += 10  # no cosine is above this: it never blacks a picture out
    checker.special_care_embeds_weights.data += 10
    return checker.eval()


def _sd_checked():
    processor = transformers.CLIPImageProcessorPil(size=32, crop_size=32)
    return _sd(diffusers.StableDiffusionPipeline, safety_checker=_checker(), feature_extractor=processor)


def _sd_ip_adapter():
    return _sd(diffusers.StableDiffusionPipeline, image_encoder=vision(), feature_extractor=images())


def load_ip_adapter(pipe):
    pipe.load_ip_adapter(ip_adapter(pipe.unet), subfolder="", weight_name="")


def ip_adapter(net):
    """Return the weights of an IP-Adapter for a UNet, in the published form: projection, keys and values by layer."""
    weights, step = {}, 1
    for name in net.attn_processors:
        if name.endswith("attn2.processor"):
            width = net.get_submodule(name.removesuffix(".processor")).to_q.in_features
            weights[f"{step}.to_k_ip.weight"] = torch.randn(width, WIDTH) / WIDTH**0.5
            weights[f"{step}.to_v_ip.weight"] = torch.randn(width, WIDTH) / WIDTH**0.5
            step += 2  # the published files count the self-attentions too
    projection = diffusers.models.embeddings.ImageProjection(WIDTH, WIDTH, num_image_text_embeds=4)
    state = projection.state_dict()
    image = {
        "proj.weight": state["image_embeds.weight"],
        "proj.bias": state["image_embeds.bias"],
        "norm.weight": state["norm.weight"],
        "norm.bias": state["norm.bias"],
    }
    return {"image_proj": image, "ip_adapter": weights}


def _controlnet():
    net = diffusers.ControlNetModel(in_channels=4, conditioning_embedding_out_channels=(4, 8), **UNET).eval()
    for last in (*net.controlnet_down_blocks, net.controlnet_mid_block):  # zero at first: the control would do nothing
        torch.nn.init.normal_(last.weight, std=0.1)
    return _sd(diffusers.StableDiffusionControlNetPipeline, controlnet=net)


def _sdxl_parts():
    return {
        "vae": vae(),
        "text_encoder": text(),
        "text_encoder_2": text(projection=True, noise=0.02),
        "tokenizer": models.tokenizer(),
        "tokenizer_2": models.tokenizer(),
        "unet": unet(
            cross_attention_dim=2 * WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
            use_linear_projection=True,
        ),
        "scheduler": diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear"),
    }


def _sdxl():
    return diffusers.StableDiffusionXLPipeline(**_sdxl_parts(), add_watermarker=False)


def _sdxl_modular():
    pipe = diffusers.modular_pipelines.StableDiffusionXLAutoBlocks().init_pipeline()
    pipe.update_components(**_sdxl_parts())
    return pipe


def _sd3(*, with_t5):
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_projection_dim=16,
            joint_attention_dim=2 * WIDTH,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=16,
        ).eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae(shift_factor=0.06, scaling_factor=1.5),
        text_encoder=text(projection=True),
        tokenizer=models.tokenizer(),
        text_encoder_2=text(projection=True, noise=0.02),
        tokenizer_2=models.tokenizer(),
        text_encoder_3=t5(2 * WIDTH) if with_t5 else None,
        tokenizer_3=t5_tokenizer() if with_t5 else None,
    )


def _flux():
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=text(),
        tokenizer=models.tokenizer(),
        text_encoder_2=t5(32),
        tokenizer_2=t5_tokenizer(),
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=WIDTH,
            axes_dims_rope=[4, 4, 8],
        ).eval(),
    )


def _kandinsky_parts():
    prior = diffusers.PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, embedding_dim=WIDTH, num_layers=1, num_embeddings=32
    )
    torch.nn.init.ones_(prior.clip_std)  # zero at first: the prompt would do nothing
    return {
        "prior": prior.eval(),
        "image_encoder": vision(),
        "text_encoder": text(projection=True),
        "tokenizer": models.tokenizer(),
        "scheduler": diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=10.0
        ),
        "image_processor": images(),
    }


def _kandinsky_prior():
    return diffusers.KandinskyV22PriorPipeline(**_kandinsky_parts())


def _kandinsky_combined():
    net = unet(
        out_channels=8,
        addition_embed_type="image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(32, 32),
        norm_num_groups=32,
        cross_attention_dim=32,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="image_proj",
        resnet_time_scale_shift="scale_shift",
    )
    movq = diffusers.VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )
    prior = {f"prior_{name}": part for name, part in _kandinsky_parts().items()}
    return diffusers.KandinskyV22CombinedPipeline(unet=net, movq=movq.eval(), scheduler=ddim(), **prior)


def _cascade_prior():
    prior = diffusers.models.StableCascadeUNet(
        in_channels=16,
        out_channels=16,
        conditioning_dim=32,
        block_out_channels=(32, 32),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(1, 1),
        block_types_per_layer=(("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),) * 2,
        switch_level=(False,),
        clip_image_in_channels=WIDTH,
        clip_text_in_channels=WIDTH,
        clip_text_pooled_in_channels=WIDTH,
        dropout=(0.0, 0.0),
    )
    torch.nn.init.normal_(prior.clf[1].weight, std=0.1)  # zero at first: the prompt would do nothing
    return diffusers.StableCascadePriorPipeline(
        tokenizer=models.tokenizer(),
        text_encoder=text(projection=True),
        prior=prior.eval(),
        scheduler=diffusers.DDPMWuerstchenScheduler(),
        feature_extractor=images(),
        image_encoder=vision(),
    )


def _animatediff():
    adapter = diffusers.MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=4, motion_num_attention_heads=2
    )
    return diffusers.AnimateDiffPipeline(
        vae=vae(),
        text_encoder=text(),
        tokenizer=models.tokenizer(),
        unet=unet(),
        motion_adapter=adapter.eval(),
        scheduler=ddim(),
    )


def _video():
    net = diffusers.UNetSpatioTemporalConditionModel(
        sample_size=16,
        block_out_channels=(32, 32),  # its blocks have 32 groups each
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=WIDTH,
        num_attention_heads=2,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
    )
    return diffusers.StableVideoDiffusionPipeline(
        vae=diffusers.AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2
        ).eval(),
        image_encoder=vision(),
        unet=net.eval(),
        scheduler=diffusers.EulerDiscreteScheduler(prediction_type="v_prediction"),
        feature_extractor=images(),
    )


_SQUARE = {"height": 32, "width": 32}


def _case(name, make, slots, *, others=(), empty=(), after=None, **inputs):
    """Give one entry; ``inputs`` that can be called are made anew for each run."""

    def arguments():
        common = {"prompt": PROMPT, "num_inference_steps": 2, "output_type": "np"}
        made = {key: value() if callable(value) else value for key, value in inputs.items()}
        return {key: value for key, value in (common | made).items() if key != "prompt" or value is not None}

    return name, Case(name, make, slots, arguments, others, empty, after)


def _sd_case(kind, *, channels=4, **inputs):
    build = lambda: _sd(getattr(diffusers, kind), channels=channels)  # noqa: E731
    return _case(kind, build, {"text_encoder": TEXT}, empty=("image_encoder",), **inputs)


def _tensor():
    """Return a picture as a tensor of the vision tower's size: what SVD does not first enlarge to 224 pixels."""
    return torch.from_numpy(np.asarray(picture(64)) / np.float32(255)).permute(2, 0, 1)[None]


PIPELINES: dict[str, Case] = dict(
    [
        _sd_case("StableDiffusionPipeline", **_SQUARE),
        _case(
            "StableDiffusionPipeline-checked",
            _sd_checked,
            {"text_encoder": TEXT},
            others=("safety_checker",),
            empty=("image_encoder",),
            **_SQUARE,
        ),
        _case(
            "StableDiffusionPipeline-ip-adapter",
            _sd_ip_adapter,
            {"text_encoder": TEXT, "image_encoder": VISION},
            after=load_ip_adapter,
            ip_adapter_image=picture,
            **_SQUARE,
        ),
        _sd_case("StableDiffusionImg2ImgPipeline", image=picture, strength=1.0),
        _sd_case("StableDiffusionInpaintPipeline", image=picture, mask_image=mask, **_SQUARE),
        _sd_case("StableDiffusionInstructPix2PixPipeline", channels=8, image=picture),
        _case(
            "StableDiffusionControlNetPipeline",
            _controlnet,
            {"text_encoder": TEXT},
            empty=("image_encoder",),
            image=picture,
        ),
        _case(
            "StableDiffusionXLPipeline",
            _sdxl,
            {"text_encoder": TEXT, "text_encoder_2": TEXT},
            empty=("image_encoder",),
            **_SQUARE,
        ),
        _case(
            "StableDiffusionXLModularPipeline",
            _sdxl_modular,
            {"text_encoder": TEXT, "text_encoder_2": TEXT},
            empty=("image_encoder",),
            output="images",
            **_SQUARE,
        ),
        _case(
            "StableDiffusion3Pipeline",
            lambda: _sd3(with_t5=True),
            {"text_encoder": TEXT, "text_encoder_2": TEXT},
            others=("text_encoder_3",),
            max_sequence_length=64,
            **_SQUARE,
        ),
        _case(
            "StableDiffusion3Pipeline-no-t5",
            lambda: _sd3(with_t5=False),
            {"text_encoder": TEXT, "text_encoder_2": TEXT},
            **_SQUARE,
        ),
        _case(
            "FluxPipeline",
            _flux,
            {"text_encoder": TEXT},
            others=("text_encoder_2",),
            empty=("image_encoder",),
            max_sequence_length=64,
            **_SQUARE,
        ),
        _case("KandinskyV22PriorPipeline", _kandinsky_prior, {"text_encoder": TEXT, "image_encoder": VISION}),
        _case(
            "StableCascadePriorPipeline",
            _cascade_prior,
            {"text_encoder": TEXT, "image_encoder": VISION},
            images=lambda: [picture(64)],
            height=128,
            width=128,
        ),
        _case(
            "AnimateDiffPipeline",
            _animatediff,
            {"text_encoder": TEXT},
            empty=("image_encoder",),
            num_frames=2,
            **_SQUARE,
        ),
        _case(
            "StableVideoDiffusionPipeline",
            _video,
            {"image_encoder": VISION},
            prompt=None,
            image=_tensor,
            num_frames=2,
            decode_chunk_size=2,
            **_SQUARE,
        ),
        # Runs pipelines made of its components: whoever replaces a component has to replace it in these too.
        _case(
            "KandinskyV22CombinedPipeline",
            _kandinsky_combined,
            {"prior_text_encoder": TEXT, "prior_image_encoder": VISION},
            prior_num_inference_steps=2,
            callback_steps=None,  # its own default is one that its decoder calls deprecated
            **_SQUARE,
        ),
    ]
)
