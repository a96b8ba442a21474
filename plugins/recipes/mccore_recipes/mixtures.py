"""Conversations that the recipes for GPUs share: how many of each data set one epoch takes."""

MID = {
    "smoltalk": 460_000,
    "mmlu": 100_000,
    "gsm8k": 8_000,
    "identity": 2_000,
    "simple_spelling": 200_000,
    "spelling_bee": 80_000,
}

SFT = {
    "smoltalk": 460_000,
    "mmlu": 300_000,
    "gsm8k": 30_000,
    "identity": 1_000,
    "simple_spelling": 300,
    "spelling_bee": 300,
}
