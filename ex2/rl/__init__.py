"""PPO for language models on TRL's online trainer. Nothing in here knows about images or VLMs."""
