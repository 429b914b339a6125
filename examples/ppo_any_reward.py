"""PPO with any Python function as the reward, and no VLM: a tiny policy learns which words belong to which animal.

    python examples/ppo_any_reward.py

Its language is the words below; untrained, it says them at random. Takes seconds on one core. With a model and a tokenizer
of your own (`from_pretrained`), the trainer is used in the same way; docs/ppo.md explains each number that it logs.
"""

import tempfile
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback

from ex2.rl import PPOConfig, PPOTrainer

FITTING = {
    "cat": ["fur", "whiskers", "claws", "purr"],
    "eagle": ["feathers", "beak", "talons", "wings"],
    "whale": ["fins", "blubber", "blowhole", "song"],
    "bee": ["stripes", "sting", "honey", "buzz"],
}
WORDS = ["<pad>", "<end>", *FITTING, *(word for words in FITTING.values() for word in words)]


def fitting_words(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """Different words of a completion that belong to the animal in its prompt, as a share of the four that do."""
    return [
        len(set(text.split()) & set(FITTING[prompt])) / 4 for prompt, text in zip(prompts, completions, strict=True)
    ]


def texts(policy: Any, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """What the policy says of each animal."""
    prompts = tokenizer(list(FITTING), return_tensors="pt").to(policy.device)
    tokens = policy.generate(**prompts, max_new_tokens=4, do_sample=True, top_k=0)
    return [text.replace(" ", ": ", 1) for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def main() -> None:
    torch.manual_seed(0)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<end>", pad_token="<pad>", padding_side="left"
    )
    shape = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.1, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            model=LlamaForCausalLM(shape),
            processing_class=tokenizer,
            reward_funcs=fitting_words,
            train_dataset=Dataset.from_list([{"prompt": animal} for animal in FITTING] * 16),
            peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"),
            args=PPOConfig(
                output_dir=folder, seed=0, max_steps=160, num_iterations=2, per_device_train_batch_size=64,
                gradient_accumulation_steps=1, max_completion_length=4, learning_rate=5e-3, beta=0.01, logging_steps=1,
                save_strategy="no", report_to="none", disable_tqdm=True, bf16=False, activation_checkpointing=False,
                dataloader_pin_memory=False,
            ),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        before = texts(trainer.model, tokenizer)
        trainer.train()
        after = texts(trainer.model, tokenizer)

    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    print("before", *before, sep="\n    ")
    print("after", *after, sep="\n    ")
    print(f"mean reward of the first rollout {rewards[0]:.3f}, of the last {rewards[-1]:.3f}")


if __name__ == "__main__":
    main()
