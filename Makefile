# make lab    open the course in JupyterLab          make test       everything, as CI runs it
# make bench  our code beside what a user would pick  make notebooks  execute and store notebooks
# make site   the course as a static site, build/site
# make portable [ARTICLE=series/article]   notebooks as another processor would compute them
# make record ARTICLE=series/article       its experiment over twenty seeds
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
# The first of these that is new enough; set PYTHON to choose another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
DISK_MB := 5000
NBVAL = -m pytest --nbval --nbval-current-env --nbval-cell-timeout=600 --dist=loadfile -n $(WORKERS) -q
NOTEBOOKS = $(if $(ARTICLE),notebooks/$(ARTICLE).ipynb notebooks/solutions/$(ARTICLE).ipynb,notebooks)
# Two older processors: one without vector units, one with AVX2. (numpy's names are those of 2.4;
# other versions ignore what they do not know.)
SCALAR := ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41 \
	OPENBLAS_CORETYPE=Nehalem NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR"
AVX2 := ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 \
	OPENBLAS_CORETYPE=Haswell NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR"

.PHONY: lab test lint bench notebooks site portable record clean
.DEFAULT_GOAL := lab

lab: $(STAMP)
	@$(BIN)/kexue-lab open

# The files with the fewest tests take longest: in the order of their number they would come last.
test: lint
	@rm -rf build/claims
	$(BIN)/python $(NBVAL) notebooks
	$(BIN)/python -m pytest --dist=loadfile --no-loadscope-reorder -n $(WORKERS) -q tests

lint: $(STAMP)
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/mypy --no-error-summary

bench: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/benchmarks --benchmark-only -q -s

notebooks: $(STAMP)
	@$(BIN)/kexue-lab refresh

portable: $(STAMP)
	$(SCALAR) KEXUE_CLAIMS_DIR=$(CURDIR)/build/portable $(BIN)/python $(NBVAL) $(NOTEBOOKS)
	$(AVX2) KEXUE_CLAIMS_DIR=$(CURDIR)/build/portable $(BIN)/python $(NBVAL) $(NOTEBOOKS)

record: $(STAMP)
	@$(BIN)/kexue-lab record $(ARTICLE)

site: $(STAMP)
	@$(BIN)/python docs/build.py

clean:
	rm -rf build runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed; none was found"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "error: Python 3.11 or newer is needed; $(PYTHON) is none"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "error: $(PYTHON) lacks venv; on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@test -x $(BIN)/python || test "$$(df -Pm . | awk 'NR==2 {print $$4}')" -ge $(DISK_MB) || \
		{ echo "error: $(DISK_MB) MB of free disk are needed here for the Python packages"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time) …"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]' || \
		{ echo "error: installing failed, see above"; exit 1; }
	@touch $(STAMP)
