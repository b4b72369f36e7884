"""The byte-level BPE vocabulary of the bundled text models, and the token files made with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BOS, PAD = "<|start|>", "<|pad|>"
SPECIAL = [BOS, PAD]  # ids 0 and 1
BOS_ID, PAD_ID = 0, 1


def train_vocabulary(documents: Sequence[str], size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of ``size`` entries that puts one BOS before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, BOS_ID)]
            ),
        ]
    )
    return tokenizer


def save_vocabulary(tokenizer: Tokenizer, folder: Path, longest: int) -> None:
    """Write the tokenizer as AutoTokenizer reads it."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, pad_token=PAD, model_max_length=longest
    )
    fast.save_pretrained(folder)


def encode_stream(tokenizer: Tokenizer, documents: Sequence[str]) -> np.ndarray:
    """All documents as one row of token ids (uint16), each behind its BOS."""
    parts = [np.asarray(found.ids, dtype=np.uint16) for found in tokenizer.encode_batch(list(documents))]
    return np.concatenate(parts)
