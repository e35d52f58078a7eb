# Every target sets up what it needs: a virtual environment in .venv with locked versions.
PYTHON ?= python3.11
BIN := .venv/bin
LOCK := requirements.lock

.PHONY: demo test test-wires test-tutorials test-apart test-pages test-wheel test-deploy fuzz check \
  docs protos serve lock sbom provenance clean

demo: .venv/ready
	$(BIN)/python scripts/demo.py

# A process a core, four at most, each with whole files: what a module shares is built once. Each
# has one thread in torch, as two that wait for each other by spinning would take turns.
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' --ignore=tests/helm --ignore=tests/pages \
	  --ignore=tests/wheel \
	  --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

# Callers of gRPC over the wire that `auto` leaves; `make test` has them over the one that it takes.
test-wires: .venv/ready
	CONVSERVE_WIRE=grpcio $(BIN)/python -m pytest -m 'not slow' tests/serving/server/rpc \
	  tests/serving/server/wire tests/serving/client tests/hostile/test_grpc_port.py \
	  tests/e2e/test_client.py tests/e2e/test_compatibility.py tests/e2e/test_inference_protocol.py \
	  tests/e2e/test_lifecycle.py tests/e2e/test_stop.py tests/e2e/test_vision_service.py

# The pages of docs/tutorials and the programs of examples/, as a reader would run them. In CI what they
# need is installed, elsewhere a test whose tool is missing is skipped and says so.
test-tutorials: .venv/ready
	$(if $(CI),$(BIN)/python scripts/install_deploy_tools.py --system)
	$(if $(CI),$(BIN)/python scripts/install_browser.py)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/tutorials tests/examples

# Callers of servers whose engines run in a process of their own.
test-apart: .venv/ready
	CONVSERVE_ENGINE_PROCESS=true OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' \
	  --numprocesses=2 --dist=loadfile tests/hostile tests/serving/client \
	  tests/e2e/test_client.py tests/e2e/test_compatibility.py tests/e2e/test_inference_protocol.py \
	  tests/e2e/test_lifecycle.py tests/e2e/test_stop.py tests/e2e/test_vision_service.py

# Pages in a real browser. In CI it is installed, elsewhere the tests say how where it is missing.
test-pages: .venv/ready
	$(if $(CI),$(BIN)/python scripts/install_browser.py)
	$(BIN)/python -m pytest -m 'not slow' tests/pages

# What a package index gets: built, looked at, installed into an empty environment, served.
test-wheel: .venv/ready
	$(BIN)/python -m pytest tests/wheel

# In CI the tools are installed, elsewhere a test whose tool is missing is skipped and says so.
test-deploy: .venv/ready
	$(if $(CI),$(BIN)/python scripts/install_deploy_tools.py --system)
	$(BIN)/python -m pytest tests/helm

# Each target for so many seconds; `make test` gives each a few examples.
SECONDS ?= 600
fuzz: .venv/ready
	FUZZ_SECONDS=$(SECONDS) $(BIN)/python -m pytest tests/fuzz

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy examples/python
	$(BIN)/lint-imports
	$(BIN)/buf lint protos
	$(BIN)/python scripts/generate_protos.py --check

# The documents as a site in build/site. A warning fails: a link, an anchor, a page that is not in
# the navigation; so does a name of the reference that the code does not explain.
docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

protos: .venv/ready
	$(BIN)/python scripts/generate_protos.py

serve: .venv/ready
	$(BIN)/convserve serve --model-repository model_repo

# Re-resolves every version. Not part of any other target: a lock changes on purpose only.
# The images' locks hold the same versions.
COMPILE = $(BIN)/uv pip compile --quiet --generate-hashes --no-annotate --no-header \
  --no-emit-index-url --python-version 3.11
lock: .venv/ready
	$(COMPILE) --extra cpu --extra train --extra cloud --extra docs --extra ray --extra dev \
	  --output-file $(LOCK) pyproject.toml
	$(COMPILE) --constraint $(LOCK) --extra cpu --extra native --extra cloud --extra otel \
	  --output-file requirements-serving.lock pyproject.toml
	$(COMPILE) --constraint $(LOCK) --extra cpu --extra train --extra cloud \
	  --output-file requirements-train.lock pyproject.toml
	$(COMPILE) --constraint $(LOCK) --extra gpu --extra native --extra cloud --extra otel \
	  --output-file requirements-serving-gpu.lock pyproject.toml

# What the images hold, by their locks: CycloneDX documents in build/sbom.
SBOMS = $(patsubst %,build/sbom/%.cdx.json,serving serving-gpu train)
sbom: .venv/ready
	$(BIN)/python scripts/install_deploy_tools.py
	$(MAKE) $(SBOMS)

build/sbom/%.cdx.json: requirements-%.lock pyproject.toml
	mkdir -p $(@D)
	.tools/bin/cyclonedx-py requirements $< --pyproject pyproject.toml --output-reproducible \
	  --output-format JSON --output-file $@

# Wheel, chart and bills of materials of the commit in build/release, and a statement on them, signed
# with KEY (openssl genpkey -algorithm ed25519). IMAGES, BASE_IMAGE: NAME@sha256:..., as pushed.
# A working folder holds more than its commit: what was forgotten there, what former builds left.
RELEASE := build/release
COMMITTED := build/committed
provenance: sbom
	rm -rf $(RELEASE) $(COMMITTED) && mkdir -p $(RELEASE) $(COMMITTED)
	git archive HEAD | tar --extract --directory $(COMMITTED)
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m pip wheel --quiet --no-deps \
	  --no-build-isolation --wheel-dir $(RELEASE) ./$(COMMITTED)
	.tools/bin/helm package --destination $(RELEASE) $(COMMITTED)/helm/convserve
	cp $(SBOMS) $(RELEASE)
	$(BIN)/python -m scripts.provenance make $(RELEASE)/provenance.json --key $(KEY) \
	  --subject $(RELEASE)/*.whl $(RELEASE)/*.tgz $(RELEASE)/*.cdx.json \
	  $(if $(IMAGES),--image $(IMAGES)) $(if $(BASE_IMAGE),--base-image $(BASE_IMAGE))

.venv/ready: $(LOCK) pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "convserve needs $(PYTHON) (Debian: apt-get install python3.11-venv)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf .venv runs build *.egg-info
