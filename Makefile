# make install: the environment.  make demo: a training run with its result.  make test: the test suite.
# make lint: style, types of the public interface, imports from room to room.
# make coverage: the share of lines that the test suite runs.
# make benchmark-market FASTREID_DATASETS=/path/to/datasets: what is reached on Market-1501, for whoever has it.
# make gpu-check: the CUDA tests, results beside the CPU's, trainings and speed, in one table; needs a CUDA GPU.
# make test-long: faults by the hundred (kills, damage, hostile and malformed files, 300 epochs), counts printed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DATASETS := $(or $(FASTREID_DATASETS),datasets)
DEMO_OUTPUT ?= logs/ISE/synthetic_mobilenetv2
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: install demo lint test coverage test-long benchmark-market gpu-check

install: $(INSTALLED)

$(INSTALLED): requirements.txt requirements-no-deps.txt setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: Python 3.10 or newer is needed; call make with PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --requirement requirements.txt
	$(PIP) install --quiet --no-deps --requirement requirements-no-deps.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: install
	$(BIN)/python projects/SyntheticPersons/make.py --size demo --output $(DATASETS)
	rm -f $(DEMO_OUTPUT)/model_final.pth  # a finished run is not trained over, but the demonstration may be seen again
	FASTREID_DATASETS=$(DATASETS) $(BIN)/python tools/train_net.py \
	    --config-file configs/ISE/synthetic_mobilenetv2.yml OUTPUT_DIR $(DEMO_OUTPUT)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

coverage: install
	$(PIP) install --quiet coverage==7.17.3
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --skip-covered --fail-under 90

test-long: install
	ISE_TEST_LONG=1 $(BIN)/python -m pytest tests/reliability -rP

benchmark-market: install
	$(BIN)/python tools/benchmarks/market.py

gpu-check: install
	$(BIN)/python tools/gpu_check.py
