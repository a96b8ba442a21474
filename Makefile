# Five chores. `bash .ci/run` runs everything that must hold.
.PHONY: test fast lint docs bench

test:
	uv run pytest

fast:  # make fast R=events
	uv run pytest -n 0 tests/$(R)

lint:
	uv run ruff format --check .
	uv run ruff check .
	uv run mypy
	cargo fmt --manifest-path rustbpe/Cargo.toml --check
	cargo clippy --quiet --manifest-path rustbpe/Cargo.toml --all-targets -- -D warnings

docs:
	uv run --group docs sphinx-build -W -q -b html docs site

bench:  # make bench B=cli_startup
	uv run python benchmarks/$(B).py
