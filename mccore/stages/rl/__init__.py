"""Reinforcement learning as a stage: who is asked what, how much better than its siblings a reply was, the steps that come of it."""
