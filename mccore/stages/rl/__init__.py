"""Reinforcement learning as a stage: what is asked, what replies are worth, and the steps that come of them."""
