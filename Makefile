# The only list of commands; CI and CONTRIBUTING call these. Each one sets up what it needs.
PYTHON ?= python3
VENV ?= .venv
# With VENV= (empty) commands use PYTHON as it is, and install nothing: make parity PYTHON=python3 VENV=
RUN = $(if $(VENV),$(VENV)/bin/python,$(PYTHON)) -m
READY = $(if $(VENV),$(VENV)/ready-all)
# As many processes as processors, so one thread for each.
THREADS = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1
PYTEST = pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder --ignore=tests/cuda

.DEFAULT_GOAL := help
.PHONY: help parity test test-all test-processors test-numpy test-torch test-keras test-flax soak faults peers port-peers port-files fuzz networks bench demo accuracy lint format docs wheel clean
.PHONY: page-browser release-check extras site test-cuda test-floors test-newest
RUNS ?= 100000
FRAMEWORK ?= torch

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

parity: $(READY)  ## run every implementation on two photographs and print the differences
	$(RUN) se_parity

test: $(VENV)/ready-all  ## run every test except slow values; nine minutes
	$(THREADS) $(RUN) $(PYTEST) -m "not slow"

test-all: $(VENV)/ready-all  ## run every test; a quarter of an hour
	$(THREADS) $(RUN) $(PYTEST)
	$(THREADS) DEVICE=cpu $(RUN) pytest tests/cuda -m "not slow"

# The runs have every pair of values of any two factors: oneDNN in TensorFlow, the instructions of PyTorch, those of XLA and
# oneDNN. If TensorFlow uses oneDNN, oneDNN's instructions are not limited: otherwise it crashes in half precision.
AVX2 = XLA_FLAGS=--xla_cpu_max_isa=AVX2 $(if $(findstring 0,$(1)),ONEDNN_MAX_CPU_ISA=AVX2 DNNL_MAX_CPU_ISA=AVX2)
ONE = $(THREADS) PYTHONHASHSEED=1
TWO = OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=2 TF_NUM_INTRAOP_THREADS=2 TF_NUM_INTEROP_THREADS=2 PYTHONHASHSEED=2
ON_PROCESSORS = $(RUN) $(PYTEST) -m "processor and not slow"
# PyTorch's compiler would reuse what it compiled for other instructions.
ATEN = ATEN_CPU_CAPABILITY=$(1) TORCHINDUCTOR_CACHE_DIR=$(abspath $(VENV))/inductor/$(1)
test-processors: $(VENV)/ready-all  ## run tests that a processor, libraries, threads, hashes or order could change; eleven minutes
	$(ONE) TF_ENABLE_ONEDNN_OPTS=1 $(call ATEN,default) $(ON_PROCESSORS)
	$(TWO) TF_ENABLE_ONEDNN_OPTS=1 $(call ATEN,avx2) $(call AVX2,1) SE_ORDER=reversed $(ON_PROCESSORS)
	$(TWO) TF_ENABLE_ONEDNN_OPTS=0 $(call ATEN,default) $(call AVX2,0) SE_ORDER=1 $(ON_PROCESSORS)
	$(ONE) TF_ENABLE_ONEDNN_OPTS=0 $(call ATEN,avx2) SE_ORDER=2 $(ON_PROCESSORS)

test-numpy: .venv-numpy/ready-numpy  ## run the tests that need NumPy alone, in an environment without frameworks
	$(THREADS) SE_TARGETS=numpy .venv-numpy/bin/python -m $(PYTEST) -m "not slow"

test-torch: .venv-torch/ready-torch  ## the same with PyTorch as the only framework, and the kernels for GPUs by Triton's interpreter
	$(THREADS) SE_TARGETS=torch,triton .venv-torch/bin/python -m $(PYTEST) -m "not slow"

test-keras: .venv-keras/ready-keras  ## the same with Keras on TensorFlow
	$(THREADS) SE_TARGETS=keras .venv-keras/bin/python -m $(PYTEST) -m "not slow"

test-flax: .venv-flax/ready-flax  ## the same with Flax
	$(THREADS) SE_TARGETS=flax .venv-flax/bin/python -m $(PYTEST) -m "not slow"

soak: $(VENV)/ready-all  ## count false alarms on 100,000 correct blocks (or RUNS=...); writes docs/SOAK.md; an hour
	$(RUN) evidence.soak --runs $(RUNS) --out docs/SOAK.md

faults: $(VENV)/ready-all  ## count known mistakes that the judge finds and names, in every dtype; half an hour
	$(RUN) evidence.fault_detection --all --dtype float64 --dtype float32 --dtype bfloat16 --dtype float16

peers: $(VENV)/ready-all  ## judge the blocks of other libraries that are installed
	$(RUN) evidence.peer_blocks

port-peers: $(VENV)/ready-all  ## find the SE blocks in every network of other libraries that are installed; a quarter of an hour
	$(RUN) evidence.peer_networks

port-files: $(VENV)/ready-all  ## find the SE blocks in packages that ship trained models; writes docs/PORT_FILES.md; five minutes
	$(RUN) evidence.port_files

page-browser: $(VENV)/ready-all  ## open the judge's page in Chromium, light and dark, and find what its console says; a minute
	$(RUN) evidence.page_browser

fuzz: $(VENV)/ready-all  ## read RUNS=20000 structured hostile files of every format; writes docs/FUZZ.md; two hours
	$(THREADS) $(RUN) evidence.fuzz --runs $(if $(filter file,$(origin RUNS)),20000,$(RUNS)) --out docs/FUZZ.md

networks: $(VENV)/ready-all  ## compare every named network in every implementation with the oracle; writes docs/NETWORKS.md; an hour
	$(THREADS) $(RUN) evidence.network_errors --out docs/NETWORKS.md

bench: $(READY)  ## time our blocks and those of others; writes docs/PERFORMANCE.md; an hour, or eight minutes with DEVICE=cuda, on an idle machine
	DEVICE=$(or $(DEVICE),cpu) $(RUN) evidence.bench

demo: $(VENV)/ready-all  ## train on digits in FRAMEWORK=torch (keras, flax), run the weights everywhere; three minutes
	$(RUN) se_parity.demo --framework $(FRAMEWORK)

accuracy: $(VENV)/ready-all  ## measure every elementary function of every backend; writes docs/accuracy.json; an hour
	$(RUN) evidence.accuracy --out docs/accuracy.json

lint: $(VENV)/ready-all  ## check style, format and types
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format: $(VENV)/ready-all  ## correct style and format
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

docs: $(VENV)/ready-all  ## print the pages that are generated from tables
	$(RUN) se_spec > docs/PRESETS.md

wheel: $(VENV)/ready-all  ## build dist/*.whl
	$(RUN) build --wheel --outdir dist .

release-check: $(VENV)/ready-all  ## build both distributions, check them as an index does, use the wheel with each small extra; two minutes
	$(RUN) evidence.release $(addprefix --extra ,$(EXTRA))

extras: $(VENV)/ready-all  ## install every extra in an empty environment and measure it; writes docs/EXTRAS.md; ten minutes
	$(RUN) evidence.extras

site: .venv-site/ready-site  ## build the pages as a site into out/site, check links, look at it in Chromium if it is there; a minute
	.venv-site/bin/python -m evidence.site

# Processes share the GPU, and mostly wait for Triton's compiler.
SHARED = --numprocesses=logical --maxprocesses=8 --dist=loadgroup
test-cuda: $(READY)  ## run the tests that a GPU could change; five minutes; PYTHON=python3 VENV= installs nothing
	DEVICE=$(or $(DEVICE),cuda) $(RUN) pytest tests/cuda $(if $(shell $(RUN) xdist 2>&1 | grep "No module named xdist$$"),,$(SHARED))

test-floors:  ## run each family's tests on the lowest supported versions, or ONLY="numpy flax"; writes docs/VERSIONS.md
	$(PYTHON) -m evidence.versions floors $(addprefix --only ,$(ONLY))

test-newest:  ## the same on the newest versions, on Python 3.11 or ON="3.12 3.13"
	$(PYTHON) -m evidence.versions newest $(addprefix --only ,$(ONLY)) $(addprefix --python ,$(ON))

clean:  ## remove environments and build products
	rm -rf .venv .venv-* build dist out

# An environment DIR/ready-EXTRA holds the project with that extra; "numpy" is none at all.
.PRECIOUS: %/ready-all %/ready-numpy %/ready-torch %/ready-keras %/ready-flax %/ready-site
%/ready-all: pyproject.toml constraints.txt
	@$(call install,$(@D),[all],dev)
	@touch $@
%/ready-numpy: pyproject.toml constraints.txt
	@$(call install,$(@D),,test)
	@touch $@
%/ready-torch: pyproject.toml constraints.txt
	@$(call install,$(@D),[torch$(comma)triton],test)
	@touch $@
%/ready-keras: pyproject.toml constraints.txt
	@$(call install,$(@D),[keras-tf],test)
	@touch $@
%/ready-flax: pyproject.toml constraints.txt
	@$(call install,$(@D),[flax],test)
	@touch $@
%/ready-site: pyproject.toml constraints.txt
	@$(call install,$(@D),,docs)
	@touch $@

comma := ,
define install
echo "setting up $(1) (a few minutes the first time)"; \
$(PYTHON) -m venv $(1) && \
$(1)/bin/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1' && \
$(1)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.$(2)' --group $(3)
endef
