PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench build browser wheel

demo: build ## minGRU beside a GRU of its size on Python's own source, two minutes each; goes on if stopped
	$(BIN)/recurra demo

# What is tested must be the kernels, compiled without a warning.
test: export RECURRA_REQUIRE_NATIVE = 1
test: export SKBUILD_CMAKE_DEFINE = RECURRA_STRICT=ON
test: lint build browser ## all but the slow tests
	$(BIN)/pytest -n 2 --dist worksteal

lint: .venv/tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: build
	$(BIN)/recurra bench layers

# For the tests of pages, which are skipped, and say so, where there is none and none may be installed.
browser:
	@command -v chromium-headless-shell chromium > /dev/null || test "$$(id -u)" != 0 || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium-headless-shell; } \
		> /dev/null || echo "no Chromium could be installed"

build: .venv/recurra ## the environment and the kernels; compiles what changed

wheel: .venv/tools ## what a release uploads, in dist/
	rm -rf dist
	RECURRA_REQUIRE_NATIVE=1 $(BIN)/python -m build --no-isolation
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/auditwheel repair --exclude libgomp.so.1 --wheel-dir dist dist/*-linux_*.whl
	rm dist/*-linux_*.whl

.venv/tools: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --requirement requirements.txt
	touch $@

.venv/recurra: .venv/tools pyproject.toml CMakeLists.txt $(wildcard csrc/*.h csrc/*.cpp)
	$(BIN)/python -m pip install -qq --no-build-isolation --no-deps --editable .
	touch $@
