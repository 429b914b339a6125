"""Train an LLM with PPO to describe classes the way a vision-language model prefers.

accelerate launch train/ppo_ex2.py --config configs/quickstart.yaml [--any_option value ...] [--dry_run true]
"""

from ex2.launch import main

if __name__ == "__main__":
    main("ppo")
