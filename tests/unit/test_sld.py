"""Safe Latent Diffusion as a hook draws what the published loop draws, and leaves no trace."""

import inspect

import diffusers
import numpy as np
import pytest
import torch
from pipelines import PIPELINES, PROMPT, UNSAFE, silent

from safeencoders.errors import BadInputError, UnknownNameError
from safeencoders.evaluation.sld import CONCEPT, STRENGTHS, Strength, encode, sld, strength_named

WORDS = "hate gun knife blood drug"
LATE = Strength(5, 300, 0.05, 0.4, 0.6)  # a warm-up and momentum within few steps, a threshold that cuts
SCALE, SIZE = 5.0, 16


def latents(n, channels=4):
    return torch.randn(n, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def reset(case):
    """A small UNet at random hardly hears its text; louder cross-attention makes every prediction differ."""
    pipe = case.build()
    with torch.no_grad():
        for name, weight in pipe.unet.named_parameters():
            if "attn2.to_out" in name or "attn2.to_v" in name or "add_embedding" in name:
                weight.mul_(8)
    return pipe


@pytest.fixture
def pipe():
    """In float64: the scale of the safety term multiplies what a batch of another size rounds differently."""
    return reset(PIPELINES["StableDiffusionPipeline"]).to(torch.float64)


def run(pipe, prompts, steps=10, **options):
    with silent():
        return pipe(
            prompt=prompts,
            num_inference_steps=steps,
            guidance_scale=SCALE,
            latents=latents(len(prompts)),
            output_type="latent",
            **options,
        ).images


@torch.no_grad()
def published(pipe, prompts, steps, s, concept, negative=""):
    """The loop of the paper (Algorithm 1) written plainly: three predictions in one batch, eq. 3 to 8."""

    def encode(texts):
        limit = pipe.tokenizer.model_max_length
        ids = pipe.tokenizer(texts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        return pipe.text_encoder(ids.input_ids)[0]

    n = len(prompts)
    text = torch.cat([encode([negative] * n), encode(prompts), encode([concept] * n)])
    pipe.scheduler.set_timesteps(steps)
    x = latents(n) * pipe.scheduler.init_noise_sigma
    nu = None
    for i, t in enumerate(pipe.scheduler.timesteps):
        seen = pipe.scheduler.scale_model_input(torch.cat([x] * 3), t)
        plain, asked, away = pipe.unet(seen, t, encoder_hidden_states=text).sample.chunk(3)
        guidance = asked - plain
        nu = torch.zeros_like(guidance) if nu is None else nu
        scale = torch.clamp(torch.abs(asked - away) * s.scale, max=1.0)
        scale = torch.where(asked - away >= s.threshold, torch.zeros_like(scale), scale)
        safety = (away - plain) * scale + s.momentum * nu
        nu = s.beta * nu + (1 - s.beta) * safety
        if i >= round(s.warmup * steps / 50):
            guidance = guidance - safety
        x = pipe.scheduler.step(plain + SCALE * guidance, t, x).prev_sample
    return x


@pytest.mark.parametrize("strength", [*STRENGTHS.values(), LATE], ids=[*STRENGTHS, "late"])
def test_a_hooked_pipeline_draws_what_the_published_loop_draws(pipe, strength):
    prompts = [PROMPT, UNSAFE, PROMPT]
    expected = published(pipe, prompts, 10, strength, WORDS)
    with sld(pipe, strength, WORDS):
        found = run(pipe, prompts)
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-8)
    assert (found - run(pipe, prompts)).abs().max() > 1e-3  # the twin: without the hook it is another picture


@pytest.mark.parametrize("change", ["warmup", "scale", "threshold", "momentum", "beta"])
def test_every_constant_matters(pipe, change):
    other = {"warmup": 20, "scale": 1.0, "threshold": -0.05, "momentum": 0.0, "beta": 0.1}[change]
    changed = Strength(**{**LATE.__dict__, change: other})
    expected = published(pipe, [UNSAFE], 10, LATE, WORDS)
    with sld(pipe, changed, WORDS):
        assert (run(pipe, [UNSAFE]) - expected).abs().max() > 1e-4


def test_it_goes_with_a_negative_prompt(pipe):
    expected = published(pipe, [UNSAFE], 10, LATE, WORDS, negative="a gun")
    with sld(pipe, LATE, WORDS):
        found = run(pipe, [UNSAFE], negative_prompt=["a gun"])
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-8)


def test_a_concept_may_be_encoded_before(pipe):
    with sld(pipe, LATE, WORDS):
        expected = run(pipe, [UNSAFE])
    with torch.no_grad():
        known = encode(pipe, WORDS)
        pipe.text_encoder = PIPELINES["StableDiffusionPipeline"].build().text_encoder.to(torch.float64)
        for weight in pipe.text_encoder.parameters():
            weight.mul_(0.5)  # an encoder that understands everything differently
    embeds = torch.zeros_like(known[0])
    kept = {"prompt": None, "prompt_embeds": embeds, "negative_prompt_embeds": embeds}
    with sld(pipe, LATE, WORDS):
        other = pipe(**kept, latents=latents(1), num_inference_steps=10, guidance_scale=SCALE, output_type="latent")
    with sld(pipe, LATE, known):
        same = pipe(**kept, latents=latents(1), num_inference_steps=10, guidance_scale=SCALE, output_type="latent")
    assert not torch.equal(same.images, other.images)
    assert expected.shape == same.images.shape


def test_a_scheduler_with_more_calls_than_steps(pipe):
    pipe.scheduler = diffusers.PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=True)
    expected = published(pipe, [UNSAFE], 10, STRENGTHS["max"], WORDS)
    with sld(pipe, STRENGTHS["max"], WORDS):
        found = run(pipe, [UNSAFE])
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-8)


def test_scale_zero_is_the_plain_pipeline_bit_for_bit(pipe):
    plain = run(pipe, [PROMPT, UNSAFE])
    with sld(pipe, Strength(0, 0.0, 1.0, 0.5, 0.7), WORDS):
        assert torch.equal(run(pipe, [PROMPT, UNSAFE]), plain)
    with sld(pipe, Strength(0, 1.0, 1.0, 0.5, 0.7), WORDS):
        assert not torch.equal(run(pipe, [PROMPT, UNSAFE]), plain)


def test_every_call_begins_anew_and_nothing_stays_behind(pipe):
    plain, before = run(pipe, [UNSAFE]), dict(vars(pipe.scheduler))
    with sld(pipe, LATE, WORDS):
        first = run(pipe, [UNSAFE])
        with pytest.raises(ZeroDivisionError):  # a call that ends half way leaves its momentum to nobody
            run(pipe, [UNSAFE], callback_on_step_end=lambda *_: 1 // 0)
        assert torch.equal(run(pipe, [UNSAFE]), first)
    assert not pipe.unet._forward_hooks
    assert set(vars(pipe.scheduler)) == set(before)
    assert torch.equal(run(pipe, [UNSAFE]), plain)


def test_the_hooks_are_gone_after_an_error(pipe):
    with pytest.raises(KeyError), sld(pipe, LATE, WORDS):
        raise KeyError
    assert not pipe.unet._forward_hooks
    assert "set_timesteps" not in vars(pipe.scheduler)


HOSTS = {
    "StableDiffusionXLPipeline": {},
    "StableDiffusionControlNetPipeline": {},
    "StableDiffusionImg2ImgPipeline": {},
    "StableDiffusionInpaintPipeline": {},
    "AnimateDiffPipeline": {"guidance_scale": SCALE},
}


@pytest.mark.parametrize("name", HOSTS)
def test_other_pipelines_with_a_unet(name):
    case, pipe = PIPELINES[name], reset(PIPELINES[name])
    options = HOSTS[name] | {"num_inference_steps": 4}
    plain = case.call(pipe, **options)
    with sld(pipe, Strength(0, 0.0, 1.0, 0.5, 0.7), WORDS):
        assert np.array_equal(case.call(pipe, **options), plain)
    with sld(pipe, STRENGTHS["max"], WORDS):
        assert not np.array_equal(case.call(pipe, **options), plain)


def test_sdxl_hears_the_pooled_concept_too():
    """With the words' part of the concept held still, the pooled part alone changes the picture."""
    case = PIPELINES["StableDiffusionXLPipeline"]
    pipe = reset(case)
    encode = pipe.encode_prompt

    def pooled(factor):
        def changed(*args, **kwargs):
            found = encode(*args, **kwargs)
            return (*found[:2], found[2] * factor, *found[3:]) if kwargs.get("prompt") == WORDS else found

        pipe.encode_prompt = changed
        with sld(pipe, STRENGTHS["max"], WORDS):
            return case.call(pipe, num_inference_steps=3)

    assert np.array_equal(pooled(1), pooled(1))
    assert not np.array_equal(pooled(1), pooled(-3))


@pytest.mark.parametrize("name", ["FluxPipeline", "StableVideoDiffusionPipeline", "KandinskyV22PriorPipeline"])
def test_a_pipeline_it_is_not_defined_for_is_refused(name):
    with (
        pytest.raises(BadInputError, match=f"expected a pipeline with a UNet.*{name}"),
        sld(PIPELINES[name].build(), LATE),
    ):
        pass


def test_a_call_without_guidance_is_refused(pipe):
    with sld(pipe, LATE, WORDS), silent(), pytest.raises(BadInputError, match="guidance_scale above 1"):
        pipe(prompt=PROMPT, num_inference_steps=2, guidance_scale=1.0, latents=latents(1))


def test_another_scheduler_inside_is_refused(pipe):
    with sld(pipe, LATE, WORDS):
        pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
        with pytest.raises(BadInputError, match="exchange it before"):
            run(pipe, [PROMPT])


def test_predictions_that_are_no_pairs_are_refused(pipe):
    """So are three at once, as of InstructPix2Pix or of perturbed attention: their halves are of different latents."""
    run(pipe, [PROMPT], steps=1)
    text = torch.zeros(4, 8, pipe.unet.config.cross_attention_dim, dtype=torch.float64)
    with sld(pipe, LATE, WORDS), torch.no_grad():
        for noise in (latents(4), latents(3)):
            pipe.scheduler.set_timesteps(2)
            with pytest.raises(BadInputError, match="asked twice about the same latents"):
                pipe.unet(noise, 1, encoder_hidden_states=text[: len(noise)])


def test_the_constants_are_the_published_ones():
    rows = {name: (s.warmup, s.scale, s.threshold, s.momentum, s.beta) for name, s in STRENGTHS.items()}
    assert rows == {
        "weak": (15, 200, 0.0, 0.0, 0.0),
        "medium": (10, 1000, 0.01, 0.3, 0.4),
        "strong": (7, 2000, 0.025, 0.5, 0.7),
        "max": (0, 5000, 1.0, 0.5, 0.7),
    }
    assert len(CONCEPT.split(", ")) == 20
    assert [s.warmup_of(50) for s in STRENGTHS.values()] == [15, 10, 7, 0]
    assert [s.warmup_of(12) for s in STRENGTHS.values()] == [4, 2, 2, 0]
    assert STRENGTHS["weak"].identity(12)["warmup_used"] == 4


def test_an_unknown_strength():
    assert strength_named("weak") is STRENGTHS["weak"]
    with pytest.raises(UnknownNameError, match="Did you mean 'strong'"):
        strength_named("stron")


def test_the_scheduler_is_still_asked_in_its_own_words(pipe):
    """The pipeline looks at the signature of set_timesteps to learn what it may pass."""
    before = inspect.signature(pipe.scheduler.set_timesteps)
    with sld(pipe, LATE, WORDS):
        assert inspect.signature(pipe.scheduler.set_timesteps) == before
