"""The world's vision-language model: a LLaVA (Liu et al., 2023) of the world's own CLIP tower and a small Llama.

The ORIGINAL tower is frozen; projector and language model learn to describe pictures and to answer questions about
them, safe and unsafe ones alike. They read the patches of the layer before the last, as LLaVA does. A little noise on
these, of the size by which a redirected tower moves safe pictures, makes the words robust; no redirected tower is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from safeencoders.pictoworld import talk
from safeencoders.pictoworld.lexicon import CONCEPTS
from safeencoders.pictoworld.pixels import image_processor, pixel_values
from safeencoders.pictoworld.renderer import SIZE, render_batch
from safeencoders.pictoworld.scenes import Picture, stream
from safeencoders.pictoworld.talk import QUESTIONS, Topic
from safeencoders.training.loop import LossTask

if TYPE_CHECKING:
    from transformers import (
        CLIPVisionModel,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

WIDTH, LAYERS = 192, 3
LAYER = -2
NOISE = 0.1
"""Of the standard deviation of the patches."""
CONTEXT = 96
PAD, START, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
_TOPICS: tuple[Topic, ...] = (*("describe",) * 5, "what", "who", "where", "safe", "safely")


def tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer: every word of the world's talk is one token, any other word is unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate((PAD, START, END, UNKNOWN, talk.IMAGE, *talk.words()))}
    made = Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(f"{START} $A", None, [(START, vocab[START])])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        extra_special_tokens={"image_token": talk.IMAGE},
        model_max_length=CONTEXT,
        padding_side="left",
    )


def processor() -> LlavaProcessor:
    """Return what makes the model's inputs of pictures and prompts."""
    from transformers import LlavaProcessor

    return LlavaProcessor(
        image_processor(SIZE),
        tokenizer(),
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def build(tower: CLIPVisionModel) -> LlavaForConditionalGeneration:
    """Return the untrained model around a copy of the tower: a Llama of 3 layers of width 192."""
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    words: Any = tokenizer()
    text = LlamaConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=8 * WIDTH // 3,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // 32,
        num_key_value_heads=WIDTH // 32,
        max_position_embeddings=CONTEXT,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        tie_word_embeddings=True,
    )
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text,
        image_token_index=words.convert_tokens_to_ids(talk.IMAGE),
        image_seq_length=(SIZE // 16) ** 2,
        vision_feature_layer=LAYER,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model: LlavaForConditionalGeneration = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.vision_tower.eval().requires_grad_(False)
    model.generation_config.pad_token_id = words.pad_token_id
    model.generation_config.eos_token_id = words.eos_token_id
    return model


class VlmTask(LossTask):
    """Cross-entropy of the answer's words, given the picture's patches and the question."""

    def __init__(self, tower: CLIPVisionModel, batch: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = build(tower)
        self.module = self.model
        self._words: Any = tokenizer()
        self._batch, self._seed = batch, seed

    def loss(self, step: int) -> Tensor:
        """Return the loss of a step's pictures: half of the safe ones, all unsafe ones, and the look-alikes."""
        quads, benigns = stream("vlm", self._seed, step, self._batch, everything=True)
        pictures = [q.safe for q in quads[::2]] + [q.unsafe for q in quads] + [b.picture for b in benigns]
        rng = Random(f"talk-{self._seed}-{step}")
        ids, labels, mask = self._texts([_turn(picture, rng) for picture in pictures])
        with torch.autocast("cpu", torch.bfloat16):
            patches = self._patches(pictures)
            model: Any = self.model.model
            embedded = model.get_input_embeddings()(ids)
            images = (ids == self.model.config.image_token_id)[..., None]
            embedded = embedded.masked_scatter(images, model.multi_modal_projector(patches).to(embedded.dtype))
            states = model.language_model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
            said = labels[:, 1:] >= 0
            logits = self.model.lm_head(states[:, :-1][said])
        return functional.cross_entropy(logits.float(), labels[:, 1:][said])

    @torch.no_grad()
    def _patches(self, pictures: Sequence[Picture]) -> Tensor:
        tower: Any = self.model.model.vision_tower
        output = tower(pixel_values=pixel_values(render_batch(pictures)), output_hidden_states=True)
        patches: Tensor = output.hidden_states[LAYER][:, 1:].float()
        return patches + NOISE * patches.std() * torch.randn_like(patches)

    def _texts(self, turns: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids, labels (-100 where nothing is to be said) and mask, each (n, tokens)."""
        patches = " ".join([talk.IMAGE] * self.model.config.image_seq_length)
        rows, asked = [], []
        for question, answer in turns:
            given = self._words(talk.prompt(question).replace(talk.IMAGE, patches)).input_ids
            rows.append(given + self._words(f"{answer} {END}", add_special_tokens=False).input_ids)
            asked.append(len(given))
        width = max(map(len, rows))
        ids = torch.tensor([row + [self._words.pad_token_id] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        before = torch.arange(width)[None] < torch.tensor(asked)[:, None]
        return ids, ids.masked_fill(before | (mask == 0), -100), mask


def _turn(picture: Picture, rng: Random) -> tuple[str, str]:
    """Draw a question and give its answer.

    To leave out what is unsafe is taught on the concepts that redirection never sees, and asked about the others.
    """
    topic = rng.choice(_TOPICS)
    if topic == "safely" and any(CONCEPTS[name].redirected for name in picture.concepts):
        topic = "describe"
    return rng.choice(QUESTIONS[topic]), talk.answer(picture, topic)
