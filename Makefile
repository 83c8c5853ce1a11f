# make demo              train a small network on made-up tones for some minutes, and let it play a melody
# make demo DATA=folder  the same on your own recordings, of which it plays a gesture that it never heard
# make test              what has to pass while one works: ruff, mypy and the quick tests, some minutes
# make test-all          make test, then the slow tests: browser, notebooks, the docs' commands, clusters, products
# make fuzz              tens of thousands of damaged files, curves, configs, runs and messages
# make wasm              the engine of exported web pages anew (apt-get install clang lld)
# make start            synthesise sound, and train starting weights on it, build/start/start.npz: some hours
# make docs              the pages of docs/ as a site, in docs/_build/html
# make data-fsdd         download the spoken digits into data/fsdd (DATA=folder: elsewhere)
# make data-librispeech  the same of LibriSpeech's dev-clean (SUBSET="train-clean-100 ...": others)
# make data-ljspeech     the same of LJSpeech
# Installed are the versions of constraints.txt. Everything goes into $(VENV) and demo/; `make clean` removes both and what was built.

VENV ?= .venv
# The python3 that the virtual environment is made from; empty: the first suitable one of PYTHONS.
PYTHON ?=
PYTHONS := python3.13 python3.12 python3.11 python3.10 python3 python
SUITABLE := import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))

DATA ?=
SUBSET ?=
MINUTES ?= 2.5
RESUME ?= False
INPUTS ?= 1000
SEED ?= 0
KIND ?=
SYNTH_MINUTES ?= 240
STEPS ?= 20000
KEEP ?= build/fuzz
CLANG ?= clang
WASM ?= tierwave/export/wasm/engine.wasm

python := $(VENV)/bin/python
pip := $(python) -m pip --disable-pip-version-check --quiet
installed := $(VENV)/installed
test-installed := $(VENV)/test-installed
docs-installed := $(VENV)/docs-installed
export DATA

.PHONY: help demo test test-rest test-all fuzz wasm start docs bench clean data-fsdd data-librispeech data-ljspeech
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(python):
	@for python in $(if $(PYTHON),"$(PYTHON)",$(PYTHONS)); do \
	    if "$$python" -c "$(SUITABLE)" 2>/dev/null; then \
	        echo "Making $(VENV) with $$("$$python" -V)."; \
	        exec "$$python" -m venv "$(VENV)"; \
	    fi; \
	done; \
	echo "Tierwave needs Python 3.10 to 3.13 with venv, and none of $(or $(PYTHON),$(PYTHONS)) is that:" \
	    "install one (on Debian and Ubuntu also python3-venv), or name it with PYTHON=/path/to/python3." >&2; \
	exit 2

$(installed): setup.cfg pyproject.toml constraints.txt | $(python)
	@echo "Installing into $(VENV). TensorFlow is large: the first time takes some minutes."
	@$(pip) install --constraint constraints.txt --editable .
	@touch $@

$(test-installed): setup.cfg pyproject.toml constraints.txt | $(python)
	@echo "Installing into $(VENV), with what the tests need. The first time takes some minutes."
	@$(pip) install --constraint constraints.txt --editable '.[test]'
	@touch $@ $(installed)

$(docs-installed): setup.cfg pyproject.toml constraints.txt | $(python)
	@$(pip) install --constraint constraints.txt --editable '.[docs]'
	@touch $@

# The id of the session follows the folder, so that each folder has its own. Paths may have spaces in them.
demo: export TF_CPP_MIN_LOG_LEVEL = 3
demo: $(installed)
	@set -eu; \
	if [ -n "$$DATA" ]; then \
	    case "$$DATA" in "~/"*) DATA="$$HOME/$${DATA#??}" ;; esac; \
	    id="demo-$$(printf %s "$$DATA" | cksum | cut -d ' ' -f 1)"; \
	    rm -rf "demo/$$id"; \
	    $(python) chunk_audio.py --input_file "$$DATA" --output_dir "demo/$$id" --sample_rate 16000 --highpass 20 \
	        --keep_tail; \
	    set -- --data_dir "demo/$$id"; \
	else \
	    id=demo; \
	    $(python) -m tierwave demo demo/corpus; \
	    set -- --data_dir demo/corpus --config_file configs/tones.config.json; \
	fi; \
	$(python) train.py --follow --id "$$id" "$$@" --max_minutes $(MINUTES) \
	    --logdir_root demo/logdir --output_dir demo/generated --resume $(RESUME); \
	echo; \
	$(python) -m tierwave hear "demo/logdir/$$id" --output_dir "demo/sounds/$$id"; \
	echo "The sounds, each with its picture, are in demo/sounds/$$id."; \
	echo "Longer training sounds better: the same command with RESUME=True MINUTES=20 goes on from here."

# $(call timed,part,command) runs a command and prints how long it took, also where it failed.
timed = @begin=$$(date +%s); $(2); status=$$?; echo "$(1): $$(($$(date +%s) - begin)) s"; exit $$status
# A file of tests stays in one process, since its tests share what they have trained.
pytest := $(python) -m pytest --numprocesses 2 --dist loadfile

test: $(test-installed)
	$(call timed,ruff,$(VENV)/bin/ruff check .)
	$(call timed,mypy,$(VENV)/bin/mypy)
	$(call timed,quick tests,$(pytest) -m "not slow and not exhaustive")

test-rest: $(test-installed)
	$(call timed,slow tests,$(pytest) -m slow)

test-all: test test-rest

# The same kind, seed and number of an input are the same input anywhere; one with which something is wrong is kept.
fuzz: $(test-installed)
	$(python) -m pytest tests/fuzz --numprocesses 2 --inputs $(INPUTS) --seed $(SEED) --keep $(KEEP) \
	    $(if $(KIND),--kind "$(KIND)")

# The engine of exported web pages, by Debian's clang and lld; the file is in the repository, and a test builds it again.
wasm:
	$(CLANG) --target=wasm32 -msimd128 -mbulk-memory -nostdlib -O3 -ffp-contract=off -Wall -Wextra -Werror \
	    -Wl,--no-entry -Wl,--strip-all -Wl,--export=__heap_base -Wl,--stack-first -Wl,-z,stack-size=65536 \
	    -o $(WASM) tierwave/export/wasm/engine.c
	@chmod a-x $(WASM)

# The same commands make the same weights on processors of one kind.
start: $(installed)
	$(python) -m tierwave synth build/start/corpus --minutes $(SYNTH_MINUTES) --melodies 0.45 --random_seed $(SEED) --jobs 2
	$(python) train.py --id start --data_dir build/start/corpus --config_file configs/start.config.json \
	    --num_steps $(STEPS) --logdir_root build/start/logdir --output_dir build/start/generated
	$(python) -m samplernn.make_start build/start/logdir/start build/start/start.npz

docs: $(docs-installed)
	$(python) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "The site begins at docs/_build/html/index.html."

data-fsdd data-librispeech data-ljspeech: data-%: $(installed)
	@case "$$DATA" in "~/"*) DATA="$$HOME/$${DATA#??}" ;; esac; \
	$(python) -m tierwave fetch $* "$${DATA:-data/$*}"$(if $(SUBSET), --subset $(SUBSET))

bench: $(installed)
	@if [ -e bench/run.py ]; then $(python) -m bench.run; else echo "There are no benchmarks in bench/ yet."; fi

clean:
	rm -rf "$(VENV)" build docs/_build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
