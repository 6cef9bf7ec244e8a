"""transformers' Trainer trains our models, and goes on from its checkpoints as if it had not stopped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DataCollatorForLanguageModeling, Trainer, TrainingArguments

import recurra
from recurra.interop.causal_lm import wrap
from recurra.interop.fast_tokenizer import fast_tokenizer
from recurra.models import ByteVocabulary

TEXT = "the quick brown fox jumps over the lazy dog. " * 8


def _rows() -> list[dict[str, Tensor]]:
    """Rows of two lengths: the shorter are padded, by tokens that do not count."""
    tokens = torch.tensor(ByteVocabulary().encode(TEXT))
    rows = [*tokens[:320].view(-1, 16), *tokens[:72].view(-1, 9)]
    return [{"input_ids": row} for row in rows]


def _trainer(folder: Path, **options: Any) -> Trainer:
    torch.manual_seed(0)
    model = recurra.language_model(["mingru", "mamba"], 256, 8, options={"dropout": 0.1})
    tokenizer = fast_tokenizer(ByteVocabulary())
    arguments = TrainingArguments(
        str(folder),
        max_steps=6,
        learning_rate=1e-2,
        save_steps=3,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    return Trainer(wrap(model), arguments, collator, _rows(), _rows()[:4], tokenizer)


def _losses(trainer: Trainer) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_training_goes_on_exactly(tmp_path: Path) -> None:
    whole = _trainer(tmp_path)
    before = whole.evaluate()["eval_loss"]
    whole.train()
    assert whole.evaluate()["eval_loss"] < before - 0.3
    resumed = _trainer(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert _losses(resumed) == _losses(whole)
    last = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-6")
    for trained in (resumed.model, last):
        for got, want in zip(trained.parameters(), whole.model.parameters(), strict=True):
            assert got.equal(want)


def test_accumulated_and_checkpointed(tmp_path: Path) -> None:
    """One batch of sixteen, or four times four with half the memory: the same gradients."""
    together = _trainer(tmp_path / "1", per_device_train_batch_size=16)
    apart = _trainer(
        tmp_path / "4",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=4,
        activation_checkpointing=True,
    )
    for trainer in (together, apart):
        for block in trainer.model.model.blocks:
            object.__setattr__(block.config, "dropout", 0.0)
        trainer.train()
    assert apart.model.model.checkpointing
    assert _losses(apart) == pytest.approx(_losses(together), rel=1e-4)
