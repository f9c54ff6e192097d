"""The behaviour during training: training is not changed, bit for bit, and what is measured is true."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from interp.errors import MetricError, OptionError, PromptError
from interp.models.pair import Pair
from interp.organisms import prompts
from interp.training.behaviour_callback import BehaviourCallback

FILES = [prompts("refusal", "verify", name) for name in ("harmful", "harmless")]


def pair(name="full"):
    return Pair.load(f"organism:refusal/{name}", "organism:refusal/base", device="cpu")


def copy_of(loaded):
    config = loaded.tuned.module.config
    config.attention_dropout = 0.2
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(loaded.tuned.module.state_dict())
    return model.float()


def trained(place, optimizer, callbacks, tokenizer=True, steps=6):
    """Losses and weights of a short training with dropout on."""
    loaded = pair()
    model = copy_of(loaded)
    ids = [list(loaded.tokenizer(f"how to fix the {word} ?")["input_ids"]) for word in "abcdefgh"]
    rows = [{"input_ids": one[:6], "labels": one[:6]} for one in ids]
    arguments = TrainingArguments(
        output_dir=str(place),
        max_steps=steps,
        per_device_train_batch_size=4,
        optim=optimizer,
        learning_rate=1e-2,
        save_steps=2,
        logging_steps=1,
        seed=3,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=rows,
        processing_class=loaded.tokenizer if tokenizer else None,
        data_collator=lambda batch: {
            key: torch.tensor([row[key] for row in batch]) for key in ("input_ids", "labels")
        },
        callbacks=callbacks,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw_torch"])
def test_training_is_the_same_bit_for_bit(tmp_path, optimizer):
    alone = trained(tmp_path / "alone", optimizer, [])
    callback = BehaviourCallback(*FILES, prompts=4, max_new_tokens=6)
    measured = trained(tmp_path / "measured", optimizer, [callback])
    assert alone[0] == measured[0]
    assert len(set(alone[0])) > 1
    assert all(torch.equal(alone[1][name], measured[1][name]) for name in alone[1])
    assert [row["step"] for row in callback.rows] == [0, 2, 4, 6]


def test_what_it_measures_is_what_the_commands_measure(tmp_path, capsys):
    callback = BehaviourCallback(*FILES, prompts=24, max_new_tokens=24)
    trained(tmp_path, "sgd", [callback], steps=2)
    lines = (tmp_path / "behaviour.jsonl").read_text(encoding="utf-8").splitlines()
    first = json.loads(lines[0])
    assert (first["harmful"], first["harmless"]) == (1.0, 0.0)
    assert len(lines) == 2
    assert (tmp_path / "behaviour.html").stat().st_size > 1e6
    assert f"interp audit {tmp_path / 'checkpoint-2'}" in capsys.readouterr().out


def test_another_behaviour_can_be_followed(tmp_path):
    path = tmp_path / "sure.yaml"
    path.write_text("name: agreeing words\nkind: phrases\nphrases: [sure]\n", encoding="utf-8")
    callback = BehaviourCallback(*FILES, behaviour=path, prompts=4)
    trained(tmp_path / "run", "sgd", [callback], steps=1)
    assert callback.rows[0]["harmless"] > 0


def test_what_is_missing_is_one_line(tmp_path):
    with pytest.raises(OptionError, match="give it processing_class"):
        trained(tmp_path, "sgd", [BehaviourCallback(*FILES, prompts=2)], tokenizer=False)
    with pytest.raises(OptionError, match="use 1 or more"):
        BehaviourCallback(*FILES, prompts=0)
    with pytest.raises(PromptError):
        BehaviourCallback(tmp_path / "none.txt", FILES[1])
    with pytest.raises(MetricError):
        BehaviourCallback(*FILES, behaviour="none.yaml")
