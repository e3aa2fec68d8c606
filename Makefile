PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo setup test check format gpu

demo: setup  ## build the shipped model and segment drawn streets and photos: look into demo-out/
	$(BIN)/build-engine engines/demo.toml --explain
	$(BIN)/refinenet-edge run engines/demo scenes:1000003:6 --out demo-out/scenes
	$(BIN)/refinenet-edge run engines/demo refinenet_edge/photos --out demo-out/photos
	$(BIN)/refinenet-edge eval engines/demo scenes:1000003:20

setup: .venv/ready  ## everything into .venv, pinned by constraints.txt

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

test: setup  ## everything that needs no GPU
	$(BIN)/python -m pytest -m "not gpu"

check: setup  ## what CI checks before the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

gpu: setup  ## the same contracts on real hardware
	$(BIN)/python -m pytest -m gpu
