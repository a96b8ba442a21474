"""Today's exceptions to the rules of `test_layout.py`, each with its reason. Lists may only shrink."""

from __future__ import annotations

LARGE_FILES: dict[str, str] = {
    "mccore/model/gpt.py": "still to be split",
    "mccore/testing/trees.py": "still to be split",
}

LONG_FUNCTIONS: dict[str, str] = {
    "mccore/cli/bench.py:context": "still to be split",
    "mccore/cli/chat/command.py:chat": "still to be split",
    "mccore/cli/tok.py:train": "still to be split",
    "mccore/eval/context/long_history.py:evaluate_long_histories": "checks, rows, windows and report in one; rows want a room",
    "mccore/eval/context/stream.py:stream_focus": "its checks want a value of the options",
    "mccore/eval/context/within_sequence.py:evaluate_contexts": "half of it describes its options",
    "mccore/model/gpt.py:GPT.hidden": "still to be split",
    "mccore/train/loop.py:train": "one step read from top to bottom; its metrics could go",
}

LARGE_CLASSES: dict[str, str] = {
    "mccore/cli/chat/terminal.py:Terminal": "still to be split",
    "mccore/model/gpt.py:GPT": "still to be split",
    "mccore/runs/rundir.py:RunDir": "still to be split",
    "mccore/testing/trees.py:TreeBackendSuite": "still to be split",
}

MANY_PARAMETERS: dict[str, str] = {
    "mccore/data/batches/loader.py:Loader.__init__": "wants a value of its own",
    "mccore/data/batches/rows.py:Rows.__init__": "wants a value of its own",
    "mccore/eval/context/conditions.py:ContextRows.__init__": "models and geometry could be one value",
    "mccore/eval/context/long_history.py:_Row.__init__": "model, horizon and oracle spans could be one value",
    "mccore/eval/context/long_history.py:evaluate_long_histories": "keyword options of a whole evaluation",
    "mccore/eval/context/stream.py:focus_check": "keyword options of a whole evaluation",
    "mccore/eval/context/stream.py:stream_focus": "keyword options of a whole evaluation",
    "mccore/eval/context/within_sequence.py:evaluate_contexts": "keyword options of a whole evaluation",
    "mccore/launch/launcher.py:_Launch.__init__": "wants a value of its own",
    "mccore/megacontext/focus/controller.py:prefill_focus": "could take a `Score`, as `refocus` does",
    "mccore/megacontext/tree/tree.py:BlockEncoder.__init__": "wants a value of its own",
    "mccore/model/gpt.py:Attention.forward": "wants a value of its own",
    "mccore/model/gpt.py:GPT.hidden": "wants a value of its own",
    "mccore/model/optim/muon.py:muon_update": "wants a value of its own",
    "mccore/testing/allocators.py:random_view": "wants a value of its own",
    "mccore/train/loop.py:train": "the seams of training, by keyword",
}

REPEATED_CLASSES: dict[str, str] = {
    "Piece": "still to be renamed",
    "Progress": "still to be renamed",
}

REPEATED_HELPERS: dict[str, str] = {
    "_missing": "still to be renamed",
    "_nodes": "still to be renamed",
    "_number": "still to be renamed",
    "_object": "still to be renamed",
}

SHARED_PREFIXES: dict[str, str] = {}
