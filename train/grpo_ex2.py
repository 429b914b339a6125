"""Train an LLM with GRPO to describe classes the way a vision-language model prefers.

accelerate launch train/grpo_ex2.py --config configs/quickstart_grpo.yaml [--any_option value ...] [--dry_run true]
"""

from ex2.launch import main

if __name__ == "__main__":
    main("grpo")
