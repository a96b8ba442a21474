"""Reinforcement learning: who is asked what, how much better than its siblings a reply was, and the steps that come of it."""
